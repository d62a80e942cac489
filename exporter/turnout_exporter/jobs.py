"""The jobs of the child processes and their results, in types that JSON has."""

from dataclasses import dataclass
from typing import Any

from turnout_exporter.compare import Comparison

OPSET = 20


@dataclass(frozen=True)
class ExportJob:
    """The job of `torch_export`, which writes the files `model` and `reference`."""

    source: str
    kwargs: dict[str, Any]
    weights: str | None
    inputs: list[str]
    points: list[str]
    output_names: list[str] | None
    opset: int
    model: str
    reference: str


@dataclass(frozen=True)
class Built:
    """The result of `torch_export`.

    Attributes:
        source_file: the file that defines the factory; None if there is none.
        precision: the precision of the weights, such as `fp32`.
        versions: the versions of torch and of the packages that it exports with.
    """

    source_file: str | None
    precision: str
    versions: dict[str, str]


@dataclass(frozen=True)
class VerifyJob:
    """The job of `verify`, which reads the files `model` and `reference`."""

    inputs: list[str]
    opset: int
    model: str
    reference: str


@dataclass(frozen=True)
class Verified:
    """The result of `verify`: the comparison of every output at every point, and ONNX Runtime's version."""

    comparisons: list[Comparison]
    onnxruntime: str
