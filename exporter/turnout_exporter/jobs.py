"""The jobs of the child processes and their results, in types that JSON has."""

from dataclasses import dataclass, field
from typing import Any

from turnout_exporter.compare import Comparison

DEFAULT_OPSET = 20


@dataclass(frozen=True)
class ModelJob:
    """How to make the model; part of other jobs."""

    source: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    weights_key: str = ""
    strip_prefix: str = ""
    task: str = ""


@dataclass(frozen=True)
class ExamineJob:
    """The job of `pytorch.examine` and `runtime.examine`, which write samples into the folder `reference`.

    Attributes:
        model: a `ModelJob`.
        inputs: the texts of `--input`; empty to find them out.
        ranges: low, high and step of the dimensions that `--range` limits.
        samples: the function of `--samples`.
        selected: the names of `--outputs`.
        reference_function: the function of `--reference`, for an ONNX file.
    """

    model: dict[str, Any]
    inputs: list[str]
    ranges: dict[str, list[int]]
    max_batch_size: int | None
    samples: str | None
    selected: list[str] | None
    output_names: list[str] | None
    reference: str
    reference_function: str | None = None


@dataclass(frozen=True)
class Examined:
    """What was found out about a model.

    Attributes:
        inputs: `--input` texts of all inputs.
        base: sizes at which it runs.
        limits: low, high and step of each free dimension.
        max_batch_size: the most rows of a batch, if axis 0 turns out to be a batch axis.
        selected: the names in the model's answer of the outputs that are published.
        output_names: their published names.
        precision: the precision of the weights, such as `fp32`.
        weight_bytes: the size of the weights.
        fingerprint: a checksum of the weights.
        source_file: the file that defines the model; None if there is none.
        versions: the versions of the packages that ran it.
        labels: the names of the classes, if the model knows them.
        preprocessing: how an input is made, if the model knows it.
        mixed: the outputs whose rows depend on each other.
    """

    inputs: list[str]
    base: dict[str, int]
    limits: dict[str, list[int]]
    max_batch_size: int
    selected: list[str]
    output_names: list[str]
    precision: str
    weight_bytes: int
    fingerprint: int
    source_file: str | None
    versions: dict[str, str]
    labels: list[str] = field(default_factory=list)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    mixed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class GuardsJob:
    """The job of `pytorch.guards`: find sizes at which `forward` takes another branch."""

    model: dict[str, Any]
    inputs: list[str]
    selected: list[str]
    limits: dict[str, list[int]]
    reference: str


@dataclass(frozen=True)
class SampleJob:
    """The job of `pytorch.sample`, which adds samples at more points to the folder `reference`."""

    model: dict[str, Any]
    inputs: list[str]
    selected: list[str]
    output_names: list[str]
    samples: str | None
    points: list[str]
    fingerprint: int
    reference: str


@dataclass(frozen=True)
class ExportJob:
    """The job of `pytorch.export`, which writes the ONNX file `path`.

    Attributes:
        exporter: `dynamo` or `torchscript`.
        metadata: what is written into the file for whoever finds it without the others.
        keep_values: whether a value that `forward` reads into Python may stay as it is in the export.
    """

    model: dict[str, Any]
    inputs: list[str]
    selected: list[str]
    exporter: str
    opset: int
    fingerprint: int
    reference: str
    path: str
    metadata: dict[str, str]
    keep_values: bool = False


@dataclass(frozen=True)
class AdoptJob:
    """The job of `runtime.adopt`, which copies the ONNX file `source` to `path`.

    Attributes:
        reference: the folder with the samples, which say which shapes the outputs have.
        metadata: what is written into the file beside what it has.
    """

    source: str
    path: str
    reference: str
    metadata: dict[str, str]


@dataclass(frozen=True)
class VerifyJob:
    """The job of `runtime.verify`, which compares the file `path` with the samples in the folder `reference`.

    Attributes:
        opset: the opset that the file must have; 0 for any.
        tolerance: what an output may differ by, as a share of its largest value; None for its type's own.
        provider: the execution provider.
    """

    inputs: list[str]
    opset: int
    path: str
    reference: str
    tolerance: float | None = None
    provider: str = "CPUExecutionProvider"


@dataclass(frozen=True)
class Verified:
    """The result of `runtime.verify`: the comparison of every output at every point, and ONNX Runtime's version."""

    comparisons: list[Comparison]
    onnxruntime: str


@dataclass(frozen=True)
class VariantJob:
    """The job of `runtime.convert`, which writes a variant of the file `path` to `output`.

    Attributes:
        variant: `fp16` or `int8`.
        samples: the function of `--samples`, whose values calibrate int8; None if there is none.
        calibration: the points at which it is called.
    """

    variant: str
    path: str
    output: str
    inputs: list[str]
    samples: str | None
    calibration: list[str]


@dataclass(frozen=True)
class TimingJob:
    """The job of `runtime.timing`: the speed of the file `path` beside that of `baseline`."""

    path: str
    baseline: str
    reference: str


@dataclass(frozen=True)
class MetricJob:
    """The job of `runtime.metric`: the user's own figures for the file `path`."""

    path: str
    metric: str


@dataclass(frozen=True)
class InspectJob:
    """The job of `runtime.inspect`: what is in the file `path`."""

    path: str


@dataclass(frozen=True)
class Inspected:
    """What is in an ONNX file.

    Attributes:
        operators: how many nodes there are of each operator; `domain.Name` for those that aren't ONNX's own.
        parameters: the number of weights.
        inputs: names, types and shapes as text; so are outputs.
        providers: the execution providers of this installation of ONNX Runtime.
    """

    opset: int
    operators: dict[str, int]
    parameters: int
    inputs: list[str]
    outputs: list[str]
    metadata: dict[str, str]
    providers: list[str]


@dataclass(frozen=True)
class TryJob:
    """The job of `runtime.attempt`: open the file `path` on a provider."""

    path: str
    provider: str
