"""The models that engines are compared on: each case as it is, and as int8 of two kinds."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from benchmarks.cases import CASES, Array, Case

#: Models of different kinds: dense layers, convolutions, attention.
NAMES = ("mlp", "resnet50", "encoder")
WITHOUT_CONVOLUTIONS = ("mlp", "encoder")
#: `int8` has ranges of activations that were measured beforehand; `int8 dynamic` measures them in each run.
FP32, INT8, DYNAMIC = "fp32", "int8", "int8 dynamic"
#: Random weights make int8 models that are further apart on two engines than trained ones.
TOLERANT = 'parameters { key: "turnout.tolerance" value { string_value: "0.2" } }\n'
#: Random inputs from which the ranges of activations are taken: enough for speed, which is what is measured.
CALIBRATION_SAMPLES = 2


@dataclass(frozen=True)
class Variant:
    """A model in one precision.

    Attributes:
        path: the ONNX file, in a repository.
    """

    case: Case
    precision: str
    path: Path

    @property
    def name(self) -> str:
        return self.path.parents[1].name

    def tensors(self, rows: int, seed: int = 1) -> dict[str, Array]:
        """Inputs by name, each (rows, ...) float32."""
        random = np.random.default_rng(seed)
        return {name: random.standard_normal((rows, *shape)).astype(np.float32) for name, shape in self.case.inputs}


def publish(root: Path) -> list[Variant]:
    """Writes every case in every precision into a repository."""
    variants = []
    for case in (case for case in CASES if case.name in NAMES):
        original = Variant(case, FP32, case.publish(root))
        config = (root / case.name / "config.pbtxt").read_text() + TOLERANT
        variants.append(original)
        for precision in (INT8, DYNAMIC):
            if precision is DYNAMIC and case.name not in WITHOUT_CONVOLUTIONS:
                continue
            made = Variant(case, precision, root / f"{case.name}-{precision.replace(' ', '-')}" / "1" / "model.onnx")
            made.path.parent.mkdir(parents=True)
            (made.path.parents[1] / "config.pbtxt").write_text(config)
            with _quiet():
                _quantize(original, made)
            variants.append(made)
    return variants


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    """Random inputs, one row each."""

    def __init__(self, variant: Variant) -> None:
        self._left: Iterator[Mapping[str, Array]] = iter([variant.tensors(1, seed) for seed in range(CALIBRATION_SAMPLES)])

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._left, None)


def _quantize(original: Variant, made: Variant) -> None:
    """Writes the int8 model; with ranges measured beforehand as QuantizeLinear and DequantizeLinear nodes."""
    if made.precision == DYNAMIC:
        quantize_dynamic(original.path, made.path)
        return
    quantize_static(
        original.path,
        made.path,
        _Samples(original),
        QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        op_types_to_quantize=["Conv", "MatMul"],
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Quantisation gives advice on the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
