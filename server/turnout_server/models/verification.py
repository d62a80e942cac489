"""Whether a model computes the same on every device: shown before it answers anybody.

The inputs are those that the exporter published with the model (`golden.npz`, with PyTorch's own outputs) or, without them,
synthetic; then the CPU's outputs are what the other devices are held to.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from turnout_server.core.errors import FailedPrecondition, InternalError, Overloaded, ServingError, Unavailable
from turnout_server.devices.sessions import Session
from turnout_server.devices.synthetic import synthetic_inputs

GOLDEN = "golden.npz"


@dataclass(frozen=True)
class VerificationSample:
    """Inputs, and the outputs that are known to be right; None if nobody knows them."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray] | None = None


@dataclass(frozen=True)
class Parity:
    """How far a device's outputs are from the right ones.

    Attributes:
        error: the largest difference, as a share of the output's largest absolute value; None if nothing could be compared.
        reference: what was right: `golden`, or the name of a device.
    """

    error: float | None
    reference: str = ""


def samples(directory: Path, session: Session) -> list[VerificationSample]:
    """What to run a model on; synthetic inputs of one row and of two if nothing was published with it.

    Two samples have the same shapes, because a device may have kept the inputs of an earlier run.

    Raises:
        FailedPrecondition: golden.npz is there and broken.
    """
    path = directory / GOLDEN
    if not path.exists():
        return [
            VerificationSample(synthetic_inputs(session.inputs, rows, seed=seed)) for rows, seed in ((1, 1), (2, 2), (2, 3))
        ]
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: _as_tensor(archive[name]) for name in archive.files}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise FailedPrecondition(f"{GOLDEN} cannot be read: {type(error).__name__}") from None
    points = dict.fromkeys(name.split("/")[0] for name in arrays)
    return [VerificationSample(_part(arrays, f"{point}/in/"), _part(arrays, f"{point}/out/")) for point in points]


def verify(
    sessions: Mapping[str, Session], samples: list[VerificationSample], tolerance: float
) -> dict[str, Parity | ServingError]:
    """Runs the samples on every device.

    Args:
        tolerance: the largest error that is allowed.

    Returns:
        For each device how far off it is, or why the model can't run there: it is further off than allowed, it lacks the
        memory, or it fails on inputs that another device, or whoever published them, could run.
    """
    order = sorted(sessions, key=lambda name: not name.startswith("cpu"))
    results: dict[str, Parity | ServingError] = {}
    reference, right = "golden", [sample.outputs for sample in samples]
    for device in order:
        outputs = _outputs(sessions[device], samples)
        results[device] = _judged(device, outputs, right, reference, tolerance)
        if right[0] is None and not isinstance(outputs, ServingError) and isinstance(results[device], Parity):
            reference, right = device, list(outputs)
    return results


def _outputs(session: Session, samples: list[VerificationSample]) -> list[dict[str, np.ndarray]] | ServingError:
    """The outputs for each sample, or why a run failed."""
    names = [spec.name for spec in session.outputs]
    try:
        return [dict(zip(names, session.run(sample.inputs, names), strict=True)) for sample in samples]
    except ServingError as error:
        return error


def _judged(
    device: str,
    outputs: list[dict[str, np.ndarray]] | ServingError,
    right: list[dict[str, np.ndarray] | None],
    reference: str,
    tolerance: float,
) -> Parity | ServingError:
    if isinstance(outputs, ServingError):
        return _failed(device, outputs, reference, known=right[0] is not None)
    pairs = [(got, want) for got, want in zip(outputs, right, strict=True) if want is not None]
    errors = [relative_error(got[name], want[name]) for got, want in pairs for name in want if name in got]
    if not errors:
        return Parity(None)
    worst = max(errors)
    if not worst <= tolerance:
        return FailedPrecondition(
            f"its outputs on device '{device}' differ from those of {reference} by {worst:.2g} of the largest value, and "
            f"{tolerance:g} is allowed (parameter turnout.tolerance)"
        )
    return Parity(worst, reference)


def _failed(device: str, error: ServingError, reference: str, *, known: bool) -> Parity | ServingError:
    """What a failed run says about a device; nothing if synthetic inputs fail everywhere, because the model may not take them.

    Args:
        known: whether the right outputs are known, so that the inputs can be run.
    """
    if isinstance(error, (Overloaded, Unavailable)):
        return error
    if not known:
        return Parity(None)
    why = error.cause if isinstance(error, InternalError) and error.cause else str(error)
    whose = f"the inputs of {GOLDEN}" if reference == "golden" else f"inputs that '{reference}' runs"
    return FailedPrecondition(f"it fails on device '{device}' with {whose}: {why}")


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference as a share of the largest absolute value wanted; infinite where shapes or texts differ."""
    if got.shape != want.shape:
        return float("inf")
    if got.dtype.kind in "OUSb":
        return 0.0 if got.tolist() == want.tolist() else float("inf")
    x, y = got.astype(np.float64), want.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    difference = np.abs(np.subtract(x, y, out=np.zeros_like(x), where=~same))
    scale = np.max(np.abs(y), initial=0.0, where=np.isfinite(y))
    worst = float(np.max(difference, initial=0.0))
    return worst if worst == 0 else worst / float(scale or 1.0)


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _as_tensor(array: np.ndarray) -> np.ndarray:
    """Text is an array of `str` objects here; numpy saved it with a fixed width."""
    return array.astype(np.object_) if array.dtype.kind == "U" else array
