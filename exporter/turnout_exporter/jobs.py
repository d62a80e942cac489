"""What the child processes are told and what they answer, in types that JSON has."""

from dataclasses import dataclass
from typing import Any

from turnout_exporter.compare import Comparison

OPSET = 20


@dataclass(frozen=True)
class ExportJob:
    """For `torch_export`: it writes the files `model` and `reference`."""

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
    """From `torch_export`.

    Attributes:
        source_file: the one that defines the factory, where there is one.
        precision: of the weights, `fp32`.
        versions: of torch and what it exports with.
    """

    source_file: str | None
    precision: str
    versions: dict[str, str]


@dataclass(frozen=True)
class VerifyJob:
    """For `verify`: it reads the files `model` and `reference`."""

    inputs: list[str]
    opset: int
    model: str
    reference: str


@dataclass(frozen=True)
class Verified:
    """From `verify`: every output at every point, and ONNX Runtime's version."""

    comparisons: list[Comparison]
    onnxruntime: str
