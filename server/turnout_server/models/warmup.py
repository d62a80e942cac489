"""The first runs of a session: those that its configuration asks for, whether its rows are independent, and its speed."""

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
from turnout_server.devices.synthetic import close, synthetic_inputs, synthetic_tensor
from turnout_server.scheduling.batching import collate, scatter
from turnout_server.scheduling.profiles import Profile

#: The quickest of so many runs counts.
QUICKEST_OF = 5
#: Runs that took this long in total are enough to tell how fast a model is.
ENOUGH_US = 100_000.0


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
        return synthetic_tensor(TensorSpec(name, datatype, shape), 0, np.random.default_rng(0))
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
    requests = [synthetic_inputs(session.inputs, rows, seed=rows) for rows in (1, 2)]
    try:
        alone = [session.run(inputs, names) for inputs in requests]
        together = scatter(session.run(collate(requests), names), [1, 2])
    except (ServingError, ValueError):
        return False
    return all(close(a, b) for one, other in zip(alone, together, strict=True) for a, b in zip(one, other, strict=True))


def measured(session: Session) -> Profile:
    """A first profile: the second of two runs of one row, or a long first one. Empty if synthetic inputs don't run."""
    profile = Profile()
    with suppress(ServingError):
        first_us = timed_us(session, 1, batched=False)
        profile.observe(1, first_us if first_us > ENOUGH_US else timed_us(session, 1, batched=False))
    return profile


def quickest_us(session: Session) -> float | None:
    """The quickest of a few runs of one row, in microseconds; None if synthetic inputs don't run."""
    runs_us: list[float] = []
    try:
        while len(runs_us) < QUICKEST_OF and sum(runs_us) < ENOUGH_US:
            runs_us.append(timed_us(session, 1, batched=False))
    except ServingError:
        return None
    return min(runs_us)


def timed_us(session: Session, rows: int, *, batched: bool) -> float:
    """How long a run of so many rows takes, in microseconds.

    Args:
        batched: run as many requests of one row each, including the time to batch and split them.

    Raises:
        ServingError: synthetic inputs don't run.
    """
    names = [spec.name for spec in session.outputs]
    count = rows if batched else 1
    requests = [synthetic_inputs(session.inputs, rows // count, seed=rows)] * count
    started_s = time.perf_counter()
    scatter(session.run(collate(requests), names), [rows // count] * count)
    return (time.perf_counter() - started_s) * 1e6
