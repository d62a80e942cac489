"""PyTorch's outputs and their inputs as an .npz file without pickles: `<point>/in/<name>` and `<point>/out/<name>`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from turnout_exporter.spec.points import BATCH, Point

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sample:
    """The inputs at one point, and PyTorch's outputs for them."""

    point: Point
    inputs: Arrays = field(default_factory=dict)
    outputs: Arrays = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for arrays in (self.inputs, self.outputs) for array in arrays.values())


def write(path: Path, samples: Iterable[Sample]) -> None:
    """Writes the samples to a compressed file."""
    arrays = {
        f"{sample.point.label}/{side}/{name}": array
        for sample in samples
        for side, side_arrays in (("in", sample.inputs), ("out", sample.outputs))
        for name, array in side_arrays.items()
    }
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read(path: Path) -> list[Sample]:
    """The samples of a file, in the order in which they were written."""
    samples: dict[str, Sample] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            label, side, name = key.split("/", 2)
            sample = samples.setdefault(label, Sample(Point.parse(label)))
            (sample.inputs if side == "in" else sample.outputs)[name] = file[key]
    return list(samples.values())


def golden(samples: list[Sample]) -> list[Sample]:
    """The two smallest samples; one of them has several rows if the model has a batch axis."""
    by_size = sorted(samples, key=lambda sample: sample.nbytes)
    several_rows = [sample for sample in by_size if sample.point.sizes.get(BATCH, 0) >= 2]
    chosen = several_rows[:1] or by_size[:1]
    return chosen + [sample for sample in by_size if sample is not chosen[0]][:1]
