"""How a model runs best on a device, found out by running it: its threads, the layout of its convolutions, padding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from turnout_server.core.errors import ServingError
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices.buckets import bucket_sizes, is_size_sensitive
from turnout_server.devices.device import PROVIDERS
from turnout_server.devices.engines import Engine
from turnout_server.devices.places import on_cores
from turnout_server.devices.sessions import Session
from turnout_server.devices.weight_files import WeightFiles
from turnout_server.models.trial_inputs import Example, trial_inputs
from turnout_server.models.warmup import CHANGED_ROWS, agree, quickest_us, size_change_us, timed_us

#: A run that is longer than this is worth sharing out between threads.
SMALL_US = 2000.0
#: Options of the CUDA provider that run convolutions channels-last. ResNet-50 was 1.7 times as fast with both on an H200, and
#: 1.2 times with the first (docs/results/gpu).
CHANNELS_LAST: Final[Sequence[Mapping[str, str]]] = (
    {"prefer_nhwc": "1", "fuse_conv_bias": "1"},
    {"prefer_nhwc": "1"},
)
#: Kernels that take longer to prepare aren't used, because that is due for every bucket: in fp16, fusing takes 4 to 6 s.
LONGEST_PREPARATION_US = 2e6
#: How much faster a choice must be to be made.
LAYOUT_GAIN = 1.1
GRAPH_GAIN = 1.2
#: CUDA graphs save launches, which matters for small batches; larger ones aren't padded only for that.
MAX_ROWS_FOR_GRAPHS = 16


@dataclass(frozen=True)
class ModelFile:
    """A model's file for a device, which can be opened in several ways.

    Args:
        weights: the files as they were when loading began.
        options: what the model's configuration says.
        example: inputs that were published with it, to try it with.
    """

    engine: Engine
    weights: WeightFiles
    options: RuntimeOptions
    example: Example | None = None

    def open(self, buckets: Sequence[int] = (), *, graphs: bool = False) -> Session:
        """See Engine.open.

        Raises:
            FailedPrecondition: besides, the file isn't the same any more: sessions of two models would answer as one version.
        """
        session = self.engine.open(self.weights.model, self.options, buckets, graphs=graphs)
        self.weights.require_unchanged()
        return session

    def of_one_thread(self) -> "ModelFile":
        """The same, to be opened with a single thread."""
        return replace(self, options=replace(self.options, intra_op_threads=1))


@dataclass(frozen=True)
class Tuned:
    """A session, and how it was chosen.

    Attributes:
        options: those that it was opened with.
        max_rows: the most rows of a batch.
        notes: what was found out, for people.
    """

    session: Session
    options: RuntimeOptions
    max_rows: int
    notes: tuple[str, ...] = field(default=())

    def fingerprint(self) -> str:
        """What bears on how fast it runs."""
        return repr((self.options, tuple(self.session.buckets)))


def with_fitting_threads(model: ModelFile) -> tuple[ModelFile, Session]:
    """The model, with a single thread if it is so small that sharing it out between a CPU's threads costs more than it saves.

    Three layers of 256 to 256 take half as long on one thread as on two (docs/results/benchmarks.md).
    """
    session, device = model.open(), model.engine.device
    if not on_cores(device) or device.threads < 2 or model.options.intra_op_threads is not None:
        return model, session
    shared_us = quickest_us(session, example=model.example)
    if shared_us is None or shared_us > SMALL_US:
        return model, session
    single = model.of_one_thread()
    alone = single.open()
    alone_us = quickest_us(alone, example=model.example)
    return (model, session) if alone_us is None or alone_us > shared_us else (single, alone)


def for_batches(model: ModelFile, session: Session, max_rows: int, tolerance: float) -> Tuned:
    """The session, or a better one for batches of up to `max_rows` rows.

    Where a change of the batch size is expensive, runs are padded to buckets. On a CUDA device in a process of its own, each of
    them is a CUDA graph if possible; other models get graphs for small batches if those are faster.

    Args:
        tolerance: how far the answers of another layout may be off, as a share of the largest value.
    """
    device = model.engine.device
    if device.graph_rows:
        rows = tuple(size for size in device.graph_rows if size <= max_rows)
        return _tuned(model.open(rows, graphs=True) if rows else session, model, max_rows)
    if device.provider == PROVIDERS["cpu"] or (change := size_change_us(session, max_rows, model.example)) is None:
        return _tuned(session, model, max_rows)
    graphs = device.is_cuda and device.isolated and device.graph_rows is None
    if not is_size_sensitive(*change):
        return _tuned(_with_graphs(model, session, max_rows) if graphs else session, model, max_rows)
    notes = [f"a change of the batch size costs {(change[1] - change[0]) / 1e3:.0f} ms, so runs are padded"]
    if device.is_cuda and max_rows >= CHANGED_ROWS:
        model, session, gain = _with_fitting_layout(model, session, tolerance)
        notes += [f"{_names(model.options.cuda)}: {gain:.1f} times as fast"] if gain > 1 else []
    try:
        padded = model.open(bucket_sizes(max_rows), graphs=graphs)
    except ServingError as error:  # most likely there isn't the memory for both
        return _tuned(session, model, max_rows, *notes[1:], f"runs are not padded: {error}")
    return _tuned(padded, model, padded.buckets[-1] if padded.buckets else max_rows, *notes)


def _tuned(session: Session, model: ModelFile, max_rows: int, *notes: str) -> Tuned:
    return Tuned(session, model.options, max_rows, (*notes, *session.notes))


def _with_graphs(model: ModelFile, session: Session, max_rows: int) -> Session:
    """The session, or one with CUDA graphs for small batches if that is faster."""
    try:
        captured = model.open(bucket_sizes(min(max_rows, MAX_ROWS_FOR_GRAPHS)), graphs=True)
    except ServingError:
        return session
    before_us, after_us = (quickest_us(each, example=model.example) for each in (session, captured))
    gains = before_us is not None and after_us is not None and after_us * GRAPH_GAIN < before_us
    return captured if captured.buckets and gains else session


def _with_fitting_layout(model: ModelFile, session: Session, tolerance: float) -> tuple[ModelFile, Session, float]:
    """The model with the options for convolutions that make it fastest, and how much faster they do; 1 for none."""
    names = [spec.name for spec in session.outputs]
    inputs = trial_inputs(session.inputs, CHANGED_ROWS, CHANGED_ROWS, model.example)
    usual_us = quickest_us(session, CHANGED_ROWS, model.example)
    if usual_us is None:
        return model, session, 1.0
    right = session.run(inputs, names)
    best, best_us = (model, session), usual_us / LAYOUT_GAIN
    for options in CHANNELS_LAST:
        if options.keys() & model.options.cuda.keys():  # the configuration decides
            continue
        candidate = replace(model, options=replace(model.options, cuda={**model.options.cuda, **options}))
        try:
            opened = candidate.open()
            if timed_us(opened, CHANGED_ROWS, batched=False, example=model.example) > LONGEST_PREPARATION_US:
                continue
            if not all(agree(a, b, tolerance) for a, b in zip(right, opened.run(inputs, names), strict=True)):
                continue
        except ServingError:
            continue
        taken_us = quickest_us(opened, CHANGED_ROWS, model.example)
        if taken_us is not None and taken_us < best_us:
            best, best_us = (candidate, opened), taken_us
    return *best, usual_us / best_us if best[1] is not session else 1.0


def _names(options: Mapping[str, str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in options.items())
