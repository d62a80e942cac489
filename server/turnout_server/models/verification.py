"""Whether a model computes the same on every device: shown before it answers anybody.

The inputs are those that the exporter published with the model (`golden.npz`, with PyTorch's own outputs) or, without them,
synthetic; then the CPU's outputs are what the other devices are held to.
"""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from turnout_server.core.errors import FailedPrecondition, InternalError, Overloaded, ServingError, Unavailable
from turnout_server.devices.device import PROVIDERS
from turnout_server.devices.ort_errors import trying
from turnout_server.devices.sessions import Session
from turnout_server.devices.synthetic import STYLES, synthetic_inputs
from turnout_server.models.file_kinds import mishap_of
from turnout_server.models.regular_files import regular

GOLDEN = "golden.npz"
#: How large its arrays may be: a million and a half bytes of zeros can be five billion.
MAX_GOLDEN_BYTES = 256 << 20
#: A value from this size on that is as many times as large as this many others isn't their scale.
LARGE, LEAST_OTHERS = 1e3, 3
UNVERIFIED = (
    "unverified: '{reference}' runs none of the inputs that were tried, so nothing shows that '{device}' computes the same "
    "({error}); publish golden.npz with the model, or set its parameter turnout.unverified to serve"
)
DOUBTFUL = (
    "unverified: made-up inputs can't show that '{device}' computes the same, because {doubt}; publish golden.npz with the "
    "model, or set its parameter turnout.unverified to serve"
)


@dataclass(frozen=True)
class VerificationSample:
    """Inputs, and the outputs that are known to be right; None if nobody knows them."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray] | None = None


@dataclass(frozen=True)
class Verifiable:
    """A session, and the execution provider that runs it."""

    session: Session
    provider: str


@dataclass(frozen=True)
class Parity:
    """How far a device's outputs are from the right ones.

    Attributes:
        error: the largest difference, as a share of the output's largest absolute value (see `relative_error`); None if nothing
            could be compared.
        reference: what was right: `golden`, or the name of a device.
    """

    error: float | None
    reference: str = ""


Samples = Sequence[VerificationSample]


def golden(directory: Path) -> Samples | None:
    """The samples that were published with a model; None if there are none.

    Raises:
        FailedPrecondition: golden.npz is there and broken.
    """
    path = directory / GOLDEN
    if not path.exists():
        return None
    try:
        with regular(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            _check_inflated_size(archive)
            arrays = {name: _as_tensor(archive[name]) for name in archive.files}
    except (OSError, EOFError, ValueError, TypeError, MemoryError, zipfile.BadZipFile) as error:
        mishap = mishap_of(path)
        raise FailedPrecondition(f"{GOLDEN} cannot be read: {f'it {mishap}' if mishap else type(error).__name__}") from None
    points = dict.fromkeys(name.split("/")[0] for name in arrays)
    return [VerificationSample(_part(arrays, f"{point}/in/"), _part(arrays, f"{point}/out/")) for point in points]


def _check_inflated_size(archive: np.lib.npyio.NpzFile) -> None:
    """Refuses a file that inflates to more than MAX_GOLDEN_BYTES, by what its directory says; no more is read than that."""
    assert archive.zip is not None
    size = sum(entry.file_size for entry in archive.zip.infolist())
    if size > MAX_GOLDEN_BYTES:
        raise FailedPrecondition(
            f"{GOLDEN} has {size} bytes once inflated, and may have {MAX_GOLDEN_BYTES}: publish fewer or smaller samples"
        )


def made_up(session: Session) -> Iterator[Samples]:
    """Synthetic samples in several styles, because not every model takes each.

    Two samples have the same shapes, because a device may have kept the inputs of an earlier run.
    """
    for style in STYLES:
        yield [
            VerificationSample(synthetic_inputs(session.inputs, rows, seed, style, session.outputs))
            for rows, seed in ((1, 1), (2, 2), (2, 3))
        ]


def verify(
    devices: Mapping[str, Verifiable], known: Samples | None, tolerances: Mapping[str, float], *, unverified: bool = False
) -> dict[str, Parity | ServingError]:
    """Runs the same inputs on every device, and compares what comes out.

    Args:
        known: samples that were published with the model; None for synthetic ones, with the CPU's outputs as the right ones.
        tolerances: the largest error that is allowed, by device.
        unverified: whether devices are used where nothing could be compared.

    Returns:
        For each device how far off it is, or why the model can't run there: it is further off than allowed, it lacks the
        memory, it fails on inputs that another device, or whoever published them, could run, or it is another provider than
        the reference and nothing could be compared.
    """
    order = sorted(devices, key=lambda name: devices[name].provider != PROVIDERS["cpu"])
    if known is not None and any(sample.outputs for sample in known):
        right = [sample.outputs for sample in known]
        return {
            name: _judged(name, _outputs(devices[name].session, known), right, "golden", tolerances[name]) for name in order
        }
    results: dict[str, Parity | ServingError] = {}
    for at, reference in enumerate(order):
        samples, outputs = _first_that_runs(devices[reference].session, known)
        if isinstance(outputs, (Overloaded, Unavailable)):
            results[reference] = outputs  # the next one may be a reference
            continue
        # A run that fails on made-up inputs says little about the model, unless it is the outputs that are wrong.
        results[reference] = outputs if isinstance(outputs, FailedPrecondition) else Parity(None)
        for name in order[at + 1 :]:
            if not isinstance(outputs, ServingError):
                own = _outputs(devices[name].session, samples)
                results[name] = _judged(name, own, list(outputs), reference, tolerances[name])
            elif devices[name].provider == devices[reference].provider:
                results[name] = results[reference]
            elif unverified:
                results[name] = Parity(None)
            else:
                results[name] = FailedPrecondition(UNVERIFIED.format(device=name, reference=reference, error=_cause(outputs)))
        break
    return results


def _first_that_runs(session: Session, known: Samples | None) -> tuple[Samples, list[dict[str, np.ndarray]] | ServingError]:
    """The first samples that a session runs, with its outputs; or the last error."""
    samples: Samples = []
    outputs: list[dict[str, np.ndarray]] | ServingError = []
    for samples in [known] if known is not None else made_up(session):
        with trying():
            outputs = _outputs(session, samples)
        if not isinstance(outputs, ServingError) or isinstance(outputs, (Overloaded, Unavailable)):
            break
    return samples, outputs


def _outputs(session: Session, samples: Samples) -> list[dict[str, np.ndarray]] | ServingError:
    """The outputs for each sample, or why a run failed; a run whose outputs aren't of the declared datatypes has failed."""
    specs = {spec.name: spec for spec in session.outputs}
    try:
        results = [dict(zip(specs, session.run(sample.inputs, list(specs)), strict=True)) for sample in samples]
    except ServingError as error:
        return error
    for name, array in (item for result in results for item in result.items()):
        if array.dtype != specs[name].datatype.dtype:
            return FailedPrecondition(f"its output '{name}' is declared {specs[name].datatype.name}, and came as {array.dtype}")
    return results


def _judged(
    device: str,
    outputs: list[dict[str, np.ndarray]] | ServingError,
    right: Sequence[dict[str, np.ndarray] | None],
    reference: str,
    tolerance: float,
) -> Parity | ServingError:
    if isinstance(outputs, ServingError):
        return _failed(device, outputs, reference)
    pairs = [
        (name, result[name], array)
        for result, want in zip(outputs, right, strict=True)
        for name, array in (want or {}).items()
        if name in result
    ]
    for name, got, wanted in pairs:
        if got.shape != wanted.shape:
            return FailedPrecondition(
                f"its output '{name}' on device '{device}' has the shape {list(got.shape)}, and that of {reference} has "
                f"{list(wanted.shape)}"
            )
    worst = max((relative_error(got, want) for _, got, want in pairs), default=0.0)
    if not worst <= tolerance:
        return FailedPrecondition(
            f"its outputs on device '{device}' differ from those of {reference} by {worst:.2g} of the largest value, and "
            f"{tolerance:g} is allowed (parameter turnout.tolerance)"
        )
    return Parity(worst, reference) if pairs else Parity(None)


def _failed(device: str, error: ServingError, reference: str) -> ServingError:
    """What a run that failed on inputs that others run says about a device."""
    if isinstance(error, (Overloaded, Unavailable)):
        return error
    whose = f"the inputs of {GOLDEN}" if reference == "golden" else f"inputs that '{reference}' runs"
    return FailedPrecondition(f"it fails on device '{device}' with {whose}: {_cause(error)}")


def _cause(error: ServingError) -> str:
    """What went wrong, for the operator."""
    return error.cause if isinstance(error, InternalError) and error.cause else str(error)


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference as a share of the value's scale; infinite where shapes or texts differ."""
    if got.shape != want.shape:
        return float("inf")
    if got.dtype.kind in "OUSb":
        return 0.0 if got.tolist() == want.tolist() else float("inf")
    x, y = got.astype(np.float64), want.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    difference = np.abs(np.subtract(x, y, out=np.zeros_like(x), where=~same))
    scale = scales_of(y, grouped=want.dtype.kind == "f")
    return float(np.max(difference / np.where(scale, scale, 1.0), initial=0.0))


def scales_of(wanted: np.ndarray, *, grouped: bool) -> np.ndarray:
    """What each element's error is a share of: the largest absolute value wanted, as turnout_exporter.compare says it.

    If `grouped`, values that are a thousand times as large as three others or more have their own scale: a mask's fill value,
    such as -1e9, would hide any error of the others.
    """
    sizes = np.abs(np.where(np.isfinite(wanted), wanted, 0.0))
    largest = float(np.max(sizes, initial=0.0))
    ordered = np.sort(sizes[sizes > 0]) if grouped and largest >= LARGE else np.empty(0)
    steps = np.flatnonzero((ordered[1:] >= LARGE) & (ordered[1:] / LARGE >= ordered[:-1]))
    ends = np.append(ordered[steps[steps >= LEAST_OTHERS - 1]], largest)
    own: np.ndarray = ends[np.searchsorted(ends, sizes)]
    return own


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _as_tensor(array: np.ndarray) -> np.ndarray:
    """Text is an array of `str` objects here; numpy saved it with a fixed width."""
    return array.astype(np.object_) if array.dtype.kind == "U" else array
