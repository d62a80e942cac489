"""What the server needs to know about a model beyond its ONNX file."""

from dataclasses import dataclass, field
from pathlib import Path

#: For models whose configuration sets none.
DEFAULT_MAX_BATCH_SIZE = 32
#: For requests that set none: less urgent than 1, more urgent than 3 and above.
DEFAULT_PRIORITY = 2


@dataclass(frozen=True)
class RuntimeOptions:
    """Options of one model's sessions; None leaves the choice to the device.

    Attributes:
        parallel: whether independent nodes may run in parallel.
        optimization_level: `all`, `extended`, `basic` or `off`.
        cuda: options of the CUDA provider.
        shapes: those of inputs and outputs whose rank the graph doesn't state, by name; -1 for a free dimension.
    """

    intra_op_threads: int | None = None
    inter_op_threads: int | None = None
    parallel: bool = False
    memory_arena: bool = True
    memory_pattern: bool = True
    optimization_level: str = "all"
    cuda: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorConfig:
    """An input or output as the configuration declares it.

    Attributes:
        datatype: `TYPE_FP32`, ...
        dims: without the batch dimension, if the model has one.
        reshape: the shape in the ONNX graph; None if it is the same as `dims`.
        labels: the classes' names for classification, by index.
        optional: whether a request may leave it out.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    labels: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class WarmupInput:
    """One input of a warm-up run.

    Attributes:
        dims: without the batch dimension; none is free.
        datatype: `TYPE_FP32`, ...
        source: `zero`, `random`, or the file that contains the raw bytes of one row.
    """

    dims: tuple[int, ...]
    datatype: str
    source: str | Path


@dataclass(frozen=True)
class Warmup:
    """A run that is repeated `count` times before a model becomes ready.

    Attributes:
        rows: the size of the batch dimension, 1 if the model has none; 0 skips the run, as in Triton.
    """

    rows: int
    count: int
    inputs: dict[str, WarmupInput]


@dataclass(frozen=True)
class QueuePolicy:
    """How requests of one priority may wait.

    Attributes:
        max_size: how many requests may wait; 0 leaves it to the server.
        timeout_us: how long a request may wait that sets no timeout; 0 for no limit.
        timeout_override: whether a request may set a shorter timeout.
        rejects: what happens after the timeout: the request is refused, or (False) moved behind the others.
    """

    max_size: int = 0
    timeout_us: int = 0
    timeout_override: bool = True
    rejects: bool = True

    def effective_timeout_us(self, requested_us: int | None) -> int | None:
        """How long a request with this timeout may wait; None for no limit. Requests can only shorten the policy's timeout."""
        own_us = self.timeout_us if self.rejects else 0
        if not self.timeout_override or requested_us is None:
            return own_us or None
        return min(requested_us, own_us or requested_us)


@dataclass(frozen=True)
class Queue:
    """How requests for a model are queued and batched.

    Attributes:
        preferred_rows: the preferred batch sizes; empty for none.
        max_delay_us: how long an incomplete batch may wait for more requests.
        levels: the number of priority levels, of which 1 is the highest; 0 for no limit.
        default_level: the priority of a request that sets none; 0 leaves it to the server.
        policy: for the levels that have none in `policies`.
        policies: by level.
    """

    preferred_rows: tuple[int, ...] = ()
    max_delay_us: int = 0
    levels: int = 0
    default_level: int = 0
    policy: QueuePolicy = QueuePolicy()
    policies: dict[int, QueuePolicy] = field(default_factory=dict)

    def level_of(self, priority: int) -> int:
        """The level at which a request waits: its priority, or the default if it has none (0) or one that doesn't exist."""
        if priority and (not self.levels or priority <= self.levels):
            return priority
        return self.default_level or DEFAULT_PRIORITY

    def policy_of(self, level: int) -> QueuePolicy:
        """The policy of a level."""
        return self.policies.get(level, self.policy)


@dataclass(frozen=True)
class ModelConfiguration:
    """What the server needs to know about a model beyond its ONNX file.

    Attributes:
        max_batch_size: the most rows in one run; 0 if axis 0 isn't a batch; None if the file doesn't set it.
        inputs, outputs: as the file declares them; empty where it leaves them to the ONNX graph.
        default_device: for requests that name no device; empty leaves it to the server.
        devices: names and kinds of the devices where the model may run; empty for all.
        files: the ONNX file by device name or kind; the key `""` holds the default.
        variants: files in other precisions, which requests choose: by device name or kind, `""` for the others.
        versions: the version numbers to serve; an int n means the n highest, None all.
        batches: whether requests may be batched.
        serves_unverified: whether devices are used on which nothing could be compared with the reference.
        objective: how `auto` chooses a device: by `latency`, `cost` or `energy`; empty leaves it to the server.
        latency_target_us: the target for the time from a request's arrival to its answer; None for none.
        instances: how many runs of the model may be concurrent, by device name or kind, `""` for the others; 0 for no limit.
        weight: the model's share of a busy device, relative to other models' weights.
        tolerance: how far a device's outputs may differ from the reference, as a share of the largest value.
        notes: settings in the file that have no effect on this server.
    """

    name: str
    max_batch_size: int | None = None
    inputs: tuple[TensorConfig, ...] = ()
    outputs: tuple[TensorConfig, ...] = ()
    default_device: str = ""
    devices: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=lambda: {"": "model.onnx"})
    variants: dict[str, tuple[str, ...]] = field(default_factory=dict)
    versions: int | tuple[int, ...] | None = 1
    queue: Queue = Queue()
    batches: bool = True
    serves_unverified: bool = False
    objective: str = ""
    latency_target_us: int | None = None
    instances: dict[str, int] = field(default_factory=dict)
    weight: float = 1.0
    tolerance: float = 1e-2
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    warmups: tuple[Warmup, ...] = ()
    notes: tuple[str, ...] = ()

    def file_for(self, device: str, kind: str) -> str:
        """The ONNX file for a device."""
        return self.files.get(device) or self.files.get(kind) or self.files[""]

    def variants_for(self, device: str, kind: str) -> tuple[str, ...]:
        """The files of other precisions that a device has beside its own."""
        return self.variants.get(device, self.variants.get(kind, self.variants.get("", ())))

    def instances_on(self, device: str, kind: str) -> int:
        """How many runs of the model may be concurrent on a device; 0 for no limit."""
        return self.instances.get(device) or self.instances.get(kind) or self.instances.get("", 0)

    def allows(self, device: str, kind: str) -> bool:
        """Whether the model may run on a device."""
        return not self.devices or device in self.devices or kind in self.devices

    def select(self, available: list[int]) -> list[int]:
        """The versions to serve among those available, in ascending order."""
        available = sorted(available)
        if self.versions is None:
            return available
        if isinstance(self.versions, int):
            return available[-self.versions :]
        return [version for version in available if version in self.versions]
