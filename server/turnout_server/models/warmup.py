"""The first runs of a session: those that its configuration asks for, whether its rows are independent, and its speed."""

import logging
import math
import time
from contextlib import suppress
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from turnout_server.core.datatypes import Datatype, of_config
from turnout_server.core.errors import FailedPrecondition, ServingError
from turnout_server.core.messages import InferRequest
from turnout_server.core.model_config import Warmup, WarmupInput
from turnout_server.core.signatures import Signature, TensorSpec
from turnout_server.core.texts import LENGTH_BYTES, elements_of
from turnout_server.devices.device import Device
from turnout_server.devices.ort_errors import trying
from turnout_server.devices.sessions import Session
from turnout_server.devices.synthetic import synthetic_inputs, synthetic_tensor
from turnout_server.models.regular_files import regular
from turnout_server.models.trial_inputs import Example, repeated, trial_inputs
from turnout_server.models.verification import scales_of
from turnout_server.scheduling.batching import collate, scatter
from turnout_server.scheduling.profiles import Profile

logger = logging.getLogger(__name__)

#: Rows of a full-precision model may differ by this share of the largest value, because kernels sum in different orders.
EXACT = 1e-3
#: And those of others; on an H200 BERT in fp16 differed from the CPU by 3.4e-3, fp32 models with TF32 by up to 5.4e-4.
REDUCED = {"tf32": 5e-3, "fp16": 2e-2, "bf16": 8e-2}
#: A difference that is larger than this share of how much rows differ from each other isn't rounding.
MAX_SHARE_OF_SPREAD = 0.1
#: The quickest of so many runs counts.
QUICKEST_OF = 5
#: And of so many changes of the size, which take longer.
QUICKEST_OF_CHANGES = 3
#: Rows of the runs that show what a change of size costs.
CHANGED_ROWS = 8
#: A protobuf message can't be larger, so no request can bring a larger tensor.
LARGEST_TENSOR_BYTES = 2**31 - 1
#: Runs that took this long in total are enough to tell how fast a model is.
ENOUGH_US = 100_000.0


def run_configured(model: str, session: Session, signature: Signature, warmups: tuple[Warmup, ...]) -> None:
    """Runs the inputs that a configuration lists under `model_warmup`, as requests would.

    Raises:
        FailedPrecondition: one of them can't be made, doesn't fit the model, or fails.
    """
    for warmup in warmups:
        if warmup.rows == 0:
            logger.warning("model %s has a model_warmup with a batch_size of 0, which is skipped", model)
            continue
        if warmup.rows > 1 and not signature.max_batch_size:
            raise FailedPrecondition(f"model_warmup has a batch_size of {warmup.rows}; with max_batch_size 0 it must be 1")
        batch = (warmup.rows,) if signature.max_batch_size else ()
        try:
            inputs = {name: _warmup_input(batch, spec) for name, spec in warmup.inputs.items()}
        except (OSError, ValueError, MemoryError) as error:
            raise FailedPrecondition(f"model_warmup failed: {_reason(error)}") from None
        try:
            signature.rows_of(InferRequest(model, "", "", inputs))
            for _ in range(warmup.count):
                session.run(signature.to_graph(inputs), signature.output_names)
        except ServingError as error:
            raise FailedPrecondition(f"model_warmup failed: {error}") from None


def _warmup_input(batch: tuple[int, ...], spec: WarmupInput) -> np.ndarray:
    """The tensor of one warm-up input, of shape (*batch, *dims).

    Raises:
        OSError, ValueError, MemoryError: it can't be made; the text of a ValueError says why.
    """
    datatype, shape = of_config(spec.datatype), (*batch, *spec.dims)
    size_bytes = math.prod(shape) * (datatype.itemsize or LENGTH_BYTES)
    if size_bytes > LARGEST_TENSOR_BYTES:
        raise ValueError(
            f"shape {list(shape)} of {datatype.name} takes {size_bytes} bytes, and no request can carry more than "
            f"{LARGEST_TENSOR_BYTES}"
        )
    if isinstance(spec.source, Path):
        row = _recorded(spec.source, datatype, spec.dims)
        return np.ascontiguousarray(np.broadcast_to(row, shape))  # Triton sends the file's row once for each row of the batch
    if spec.source == "random":
        return synthetic_tensor(TensorSpec("", datatype, shape), 0, np.random.default_rng(0))
    return np.full(shape, "", datatype.dtype) if datatype.name == "BYTES" else np.zeros(shape, datatype.dtype)


def _recorded(file: Path, datatype: Datatype, dims: tuple[int, ...]) -> np.ndarray:
    """The row that a file holds, of shape `dims`. As in Triton, numbers after it are left unread."""
    count = math.prod(dims)
    if datatype.name == "BYTES":
        try:
            texts = [str(element, "utf-8") for element in elements_of(regular(file).read_bytes())]
        except ValueError as error:  # a UnicodeDecodeError is one, too
            reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"has an {error.args[0]}"
            raise ValueError(f"'{file.name}' {reason}: each text must follow its length, a little-endian uint32") from None
        if len(texts) != count:
            raise ValueError(f"'{file.name}' has {len(texts)} texts, and dims {list(dims)} hold {count}")
        return np.array(texts, np.object_).reshape(dims)
    with regular(file).open("rb") as content:
        data = content.read(count * datatype.itemsize)
    if len(data) < count * datatype.itemsize:
        raise ValueError(f"'{file.name}' has {len(data)} bytes, and dims {list(dims)} take {count * datatype.itemsize}")
    return np.frombuffer(data, datatype.dtype).reshape(dims)


def _reason(error: OSError | ValueError | MemoryError) -> str:
    if isinstance(error, OSError):
        return f"'{Path(error.filename).name}': {error.strerror}" if error.filename else str(error)
    return "there is not the memory for its inputs" if isinstance(error, MemoryError) else str(error)


def rows_are_independent(session: Session, tolerance: float = EXACT, example: Example | None = None) -> bool:
    """Whether axis 0 is a batch: two requests run together give what each gives alone.

    A device that computes with reduced precision rounds differently for every batch size. So its answers may differ by up to
    `tolerance`, if that is small against how much the answers for different rows differ. Rows that influenced each other would
    show that much.

    Args:
        tolerance: the allowed difference as a share of the largest value; see `tolerance_of`.
        example: inputs that were published; they count as well as made-up ones, which not every model runs.
    """
    specs = (*session.inputs, *session.outputs)
    if not session.inputs or any(spec.shape[:1] != (-1,) for spec in specs):
        return False
    tried = [[synthetic_inputs(session.inputs, rows, seed=rows) for rows in (1, 2)]]
    if example and all(len(array) > 1 for array in example.values()):
        tried.append([each for rows in (1, 2) if (each := repeated(session.inputs, rows, rows, example)) is not None])
    shown = [_same_together(session, requests, tolerance) for requests in tried if requests]
    return any(shown) and False not in shown


def _same_together(session: Session, requests: list[dict[str, np.ndarray]], tolerance: float) -> bool | None:
    """Whether requests give the same together as alone; None if they don't run."""
    names = [spec.name for spec in session.outputs]
    try:
        with trying():
            alone = [session.run(inputs, names) for inputs in requests]
            together = session.run(collate(requests), names)
            scatter(together, [1, 2])
    except ServingError:
        return None
    except ValueError:
        return False
    return all(
        agree(np.concatenate(parts), whole, tolerance) for parts, whole in zip(zip(*alone, strict=True), together, strict=True)
    )


def tolerance_of(precision: str, device: Device) -> float:
    """By how much of the largest value the answers of a file may differ between batch sizes on a device."""
    tf32 = device.is_cuda and device.provider_options.get("use_tf32", "1") != "0"
    return REDUCED.get(precision, EXACT) if precision != "fp32" or not tf32 else REDUCED["tf32"]


def agree(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    """Whether the same rows, (n, ...), got the same answers in two ways: alone and together, for example.

    Args:
        tolerance: the allowed difference as a share of the largest value; it must also be small against the spread of the rows.
    """
    if one.shape != other.shape or one.dtype.kind in "OUSbiu":
        return one.shape == other.shape and one.tolist() == other.tolist()
    x, y = one.astype(np.float64), other.astype(np.float64)
    if not np.array_equal(np.isnan(x), np.isnan(y)):
        return False
    x, y = np.nan_to_num(x), np.nan_to_num(y)
    scales = scales_of(x, grouped=True)
    unit = np.where(scales, scales, 1.0)
    x, y = x / unit, y / unit
    difference = np.max(np.abs(x - y), initial=0.0)
    if difference <= EXACT:
        return True
    spread = max(float(np.max(np.abs(x[a] - x[b]), initial=0.0)) for a, b in combinations(range(len(x)), 2))
    return bool(difference <= tolerance and difference <= MAX_SHARE_OF_SPREAD * spread)


def measured(session: Session, example: Example | None = None) -> Profile:
    """A first profile: the second of two runs of one row, or a long first one. Empty if trial inputs don't run."""
    profile = Profile()
    with suppress(ServingError), trying():
        first_us = timed_us(session, 1, batched=False, example=example)
        profile.observe(1, first_us if first_us > ENOUGH_US else timed_us(session, 1, batched=False, example=example))
    return profile


def quickest_us(session: Session, rows: int = 1, example: Example | None = None) -> float | None:
    """The quickest of a few runs of so many rows, in microseconds; None if trial inputs don't run."""
    runs_us: list[float] = []
    try:
        with trying():
            while len(runs_us) < QUICKEST_OF and sum(runs_us) < ENOUGH_US:
                runs_us.append(timed_us(session, rows, batched=False, example=example))
    except ServingError:
        return None
    return min(runs_us)


def timed_us(session: Session, rows: int, *, batched: bool, example: Example | None = None) -> float:
    """How long a run of so many rows takes, in microseconds.

    Args:
        batched: run as many requests of one row each, including the time to batch and split them.
        example: inputs that were published with the model.

    Raises:
        ServingError: trial inputs don't run.
    """
    names = [spec.name for spec in session.outputs]
    count = rows if batched else 1
    requests = [trial_inputs(session.inputs, rows // count, rows, example)] * count
    started_s = time.perf_counter()
    scatter(session.run(collate(requests), names), [rows // count] * count)
    return (time.perf_counter() - started_s) * 1e6


def size_change_us(session: Session, max_rows: int, example: Example | None = None) -> tuple[float, float] | None:
    """What a run takes after one of the same size, and after one of another size, in microseconds.

    None if no other size fits, or trial inputs don't run.
    """
    rows = min(CHANGED_ROWS, max_rows)
    if rows < 2:
        return None
    run_us = partial(timed_us, session, batched=True, example=example)
    try:
        with trying():
            for _ in range(2):
                run_us(rows)
            steady_us = min(run_us(rows) for _ in range(QUICKEST_OF))
            changed_us = []
            for _ in range(QUICKEST_OF_CHANGES):
                run_us(rows - 1)
                changed_us.append(run_us(rows))
    except ServingError:
        return None
    return steady_us, min(changed_us)
