"""What a session's first runs tell: whether its rows are independent, and how long a run takes."""

import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from turnout_server.core.datatypes import of_config
from turnout_server.core.errors import FailedPrecondition, ServingError
from turnout_server.core.messages import InferRequest
from turnout_server.core.model_config import Warmup, WarmupInput
from turnout_server.core.signatures import Signature, TensorSpec
from turnout_server.devices.sessions import Session
from turnout_server.scheduling.batching import collate, scatter
from turnout_server.scheduling.profiles import Profile

#: Runs of which the quickest counts.
QUICKEST_OF = 5
#: Runs that have taken this long show enough: what is left to gain by more of them isn't worth the wait.
ENOUGH_US = 100_000.0
#: What a free dimension other than the batch is given.
FREE_DIMENSION = 2
#: Rows run together and rows run alone may differ by this much of the largest value: kernels add up in other orders.
TOLERANCE = 1e-3


def generated_inputs(inputs: tuple[TensorSpec, ...], rows: int, seed: int) -> dict[str, np.ndarray]:
    """An array for each input: standard normal floats, and zeros for the rest, an index that every vocabulary has."""
    generator = np.random.default_rng(seed)
    return {spec.name: _generated(spec, rows, generator) for spec in inputs}


def _generated(spec: TensorSpec, rows: int, generator: np.random.Generator) -> np.ndarray:
    free = [rows if axis == 0 else FREE_DIMENSION for axis in range(len(spec.shape))]
    shape = [default if size == -1 else size for size, default in zip(spec.shape, free, strict=True)]
    dtype = spec.datatype.dtype
    if spec.datatype.name == "BYTES":
        return np.full(shape, "", dtype)
    if spec.datatype.name in ("FP16", "FP32", "FP64", "BF16"):
        return generator.standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)


def run_configured(model: str, session: Session, signature: Signature, warmups: tuple[Warmup, ...]) -> None:
    """Runs the inputs that a configuration lists under `model_warmup`, as requests would.

    Raises:
        FailedPrecondition: one of them can't be made, doesn't fit the model, or fails.
    """
    for warmup in warmups:
        batch = (warmup.rows,) if warmup.rows else ()
        inputs = {name: _warmup_input(name, batch, spec) for name, spec in warmup.inputs.items()}
        try:
            signature.rows_of(InferRequest(model, "", "", inputs))
            for _ in range(warmup.count):
                session.run(signature.to_graph(inputs), signature.output_names)
        except ServingError as error:
            raise FailedPrecondition(f"model_warmup failed: {error}") from None


def _warmup_input(name: str, batch: tuple[int, ...], spec: WarmupInput) -> np.ndarray:
    shape = (*batch, *spec.dims)
    datatype = of_config(spec.datatype)
    if spec.source == "random":
        return _generated(TensorSpec(name, datatype, shape), 0, np.random.default_rng(0))
    if spec.source == "zero":
        return np.full(shape, "" if datatype.name == "BYTES" else 0, datatype.dtype)
    try:
        return np.fromfile(spec.source, datatype.dtype).reshape(shape)
    except (OSError, ValueError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise FailedPrecondition(
            f"model_warmup input '{name}' of shape {list(shape)} from '{Path(spec.source).name}': {why}"
        ) from None


def rows_are_independent(session: Session) -> bool:
    """Whether axis 0 is a batch: two requests run together give what each gives alone."""
    specs = (*session.inputs, *session.outputs)
    if not session.inputs or any(spec.shape[:1] != (-1,) for spec in specs):
        return False
    names = [spec.name for spec in session.outputs]
    requests = [generated_inputs(session.inputs, rows, seed=rows) for rows in (1, 2)]
    try:
        alone = [session.run(inputs, names) for inputs in requests]
        together = scatter(session.run(collate(requests), names), [1, 2])
    except (ServingError, ValueError):
        return False
    return all(close(a, b) for one, other in zip(alone, together, strict=True) for a, b in zip(one, other, strict=True))


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two runs of the same rows gave the same, but for the order in which kernels add up."""
    if a.shape != b.shape or a.dtype.kind in "OUS":
        return a.shape == b.shape and a.tolist() == b.tolist()
    x, y = a.astype(np.float64), b.astype(np.float64)
    scale = np.max(np.abs(x), initial=0.0)
    return bool(np.allclose(x, y, rtol=0, atol=TOLERANCE * scale, equal_nan=True))


def measured(session: Session) -> Profile:
    """A first profile: the second of two runs of one row, or a long first. Empty where it doesn't take made-up inputs."""
    profile = Profile()
    with suppress(ServingError):
        first_us = timed_us(session, 1, joins=False)
        profile.observe(1, first_us if first_us > ENOUGH_US else timed_us(session, 1, joins=False))
    return profile


def quickest_us(session: Session) -> float | None:
    """The shortest of a few runs of one row, in microseconds; None where the model doesn't take made-up inputs."""
    runs_us: list[float] = []
    try:
        while len(runs_us) < QUICKEST_OF and sum(runs_us) < ENOUGH_US:
            runs_us.append(timed_us(session, 1, joins=False))
    except ServingError:
        return None
    return min(runs_us)


def timed_us(session: Session, rows: int, *, joins: bool) -> float:
    """What a run of so many rows takes, in microseconds: of as many requests, joined and taken apart, if they can be.

    Raises:
        ServingError: the model doesn't take made-up inputs.
    """
    names = [spec.name for spec in session.outputs]
    count = rows if joins else 1
    requests = [generated_inputs(session.inputs, rows // count, seed=rows)] * count
    started_s = time.perf_counter()
    scatter(session.run(collate(requests), names), [rows // count] * count)
    return (time.perf_counter() - started_s) * 1e6
