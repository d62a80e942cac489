"""What the server needs to know of a model beyond its ONNX file."""

from dataclasses import dataclass, field
from pathlib import Path

#: What a model whose configuration says nothing gets.
DEFAULT_MAX_BATCH_SIZE = 32
#: Between what says that it is urgent (1) and what says that it can wait (3 and more).
DEFAULT_PRIORITY = 2


@dataclass(frozen=True)
class RuntimeOptions:
    """Options of one model's sessions; None leaves a choice to the device.

    Attributes:
        parallel: whether independent nodes may run at once.
        optimization_level: `all`, `extended`, `basic` or `off`.
        cuda: options of the CUDA provider.
    """

    intra_op_threads: int | None = None
    inter_op_threads: int | None = None
    parallel: bool = False
    memory_arena: bool = True
    memory_pattern: bool = True
    optimization_level: str = "all"
    cuda: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorConfig:
    """What the configuration says of an input or output.

    Attributes:
        datatype: `TYPE_FP32`, ...
        dims: without the batch dimension if the model has one.
        reshape: the shape that the ONNX graph has instead of `dims`; None if the same.
        labels: for classification, one for each index.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class WarmupInput:
    """An input to warm up with.

    Attributes:
        dims: without the batch dimension.
        datatype: `TYPE_FP32`, ...
        source: `zero`, `random`, or the file with its raw bytes.
    """

    dims: tuple[int, ...]
    datatype: str
    source: str | Path


@dataclass(frozen=True)
class Warmup:
    """A run to make before a model counts as ready.

    Attributes:
        rows: size of the batch dimension; 0 if the model has none.
    """

    rows: int
    count: int
    inputs: dict[str, WarmupInput]


@dataclass(frozen=True)
class QueuePolicy:
    """How requests of one priority may wait.

    Attributes:
        max_size: requests that may wait; 0 leaves it to the server.
        timeout_us: how long a request may wait that doesn't say; 0 for ever.
        timeout_override: whether a request may shorten that.
        rejects: what happens then: refused, or (False) put behind the others.
    """

    max_size: int = 0
    timeout_us: int = 0
    timeout_override: bool = True
    rejects: bool = True

    def effective_timeout_us(self, requested_us: int | None) -> int | None:
        """How long a request may wait that asks for `requested_us`; None for ever. A request can only shorten it."""
        own_us = self.timeout_us if self.rejects else 0
        if not self.timeout_override or requested_us is None:
            return own_us or None
        return min(requested_us, own_us or requested_us)


@dataclass(frozen=True)
class Queue:
    """How requests for a model wait for each other, and for their turn.

    Attributes:
        preferred_rows: batch sizes to prefer; empty for none.
        max_delay_us: how long an incomplete batch may wait for more.
        levels: priorities that there are, 1 the highest; 0 for any.
        default_level: the priority of a request that doesn't say; 0 leaves it to the server.
        policy: of every priority that `policies` says nothing of.
    """

    preferred_rows: tuple[int, ...] = ()
    max_delay_us: int = 0
    levels: int = 0
    default_level: int = 0
    policy: QueuePolicy = QueuePolicy()
    policies: dict[int, QueuePolicy] = field(default_factory=dict)

    def level_of(self, priority: int) -> int:
        """The priority at which a request waits that asks for this one, 0 for none; one that doesn't exist is the default."""
        if priority and (not self.levels or priority <= self.levels):
            return priority
        return self.default_level or DEFAULT_PRIORITY

    def policy_of(self, level: int) -> QueuePolicy:
        """How requests of a priority may wait."""
        return self.policies.get(level, self.policy)


@dataclass(frozen=True)
class ModelConfiguration:
    """What the server needs to know of a model beyond its ONNX file.

    Attributes:
        max_batch_size: most rows in one run; 0 if axis 0 isn't a batch; None if nobody said.
        inputs, outputs: what the file declares; empty where it leaves that to the ONNX graph.
        default_device: where a request runs that doesn't say; empty leaves it to the server.
        devices: where it may run, as names and kinds; empty means anywhere.
        files: the ONNX file by device name or kind; the key `""` holds the default.
        versions: version numbers to serve; an int n means the n highest, None all.
        batches: whether requests may be joined.
        objective: what `auto` goes by: `latency`, `cost` or `energy`; empty leaves it to the server.
        latency_target_us: how soon answers should be there, from their request's arrival; None if nobody said.
        instances: how many runs of it may go on at once, by device name or kind, `""` for the others; 0 for any number.
        weight: its share of a device that isn't enough for all, relative to other models'.
        tolerance: how far a device's outputs may be from the right ones, as a share of the largest value.
        notes: what the file says that has no effect here.
    """

    name: str
    max_batch_size: int | None = None
    inputs: tuple[TensorConfig, ...] = ()
    outputs: tuple[TensorConfig, ...] = ()
    default_device: str = ""
    devices: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=lambda: {"": "model.onnx"})
    versions: int | tuple[int, ...] | None = 1
    queue: Queue = Queue()
    batches: bool = True
    objective: str = ""
    latency_target_us: int | None = None
    instances: dict[str, int] = field(default_factory=dict)
    weight: float = 1.0
    tolerance: float = 1e-2
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    warmups: tuple[Warmup, ...] = ()
    notes: tuple[str, ...] = ()

    def file_for(self, device: str, kind: str) -> str:
        """The ONNX file that runs on a device."""
        return self.files.get(device) or self.files.get(kind) or self.files[""]

    def instances_on(self, device: str, kind: str) -> int:
        """How many of its runs may go on at once on a device; 0 for any number."""
        return self.instances.get(device) or self.instances.get(kind) or self.instances.get("", 0)

    def allows(self, device: str, kind: str) -> bool:
        """Whether the model may run there."""
        return not self.devices or device in self.devices or kind in self.devices

    def select(self, available: list[int]) -> list[int]:
        """The versions to serve out of those there are, ascending."""
        available = sorted(available)
        if self.versions is None:
            return available
        if isinstance(self.versions, int):
            return available[-self.versions :]
        return [version for version in available if version in self.versions]
