"""Samples: inputs, and the outputs that are right for them. In work folders each array is a file; golden.npz is one file."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from turnout_exporter.spec.points import BATCH, Point

Arrays = dict[str, np.ndarray]

_INDEX = "index.json"
_ZIPPED_BYTES = 16 * 2**20  #: above, compressing takes longer than it is worth: random weights don't compress


@dataclass(frozen=True)
class Sample:
    """The inputs at one point, and the model's outputs for them."""

    point: Point
    inputs: Arrays = field(default_factory=dict)
    outputs: Arrays = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for arrays in (self.inputs, self.outputs) for array in arrays.values())


def write(directory: Path, samples: Iterable[Sample]) -> None:
    """Adds samples to a folder, one file for each array: tensor names may be longer than file names."""
    directory.mkdir(exist_ok=True)
    entries = _entries(directory)
    for sample in samples:
        for side, arrays in (("in", sample.inputs), ("out", sample.outputs)):
            for name, array in arrays.items():
                np.save(directory / f"{len(entries)}.npy", array, allow_pickle=False)
                entries.append([sample.point.label, side, name])
    (directory / _INDEX).write_text(json.dumps(entries))


def read(directory: Path) -> list[Sample]:
    """The samples of a folder, in the order in which they were written; their arrays are read when they are used."""
    samples: dict[str, Sample] = {}
    for number, (label, side, name) in enumerate(_entries(directory)):
        array = np.load(directory / f"{number}.npy", mmap_mode="r", allow_pickle=False)
        _put(samples, label, side, name, array)
    return list(samples.values())


def write_golden(path: Path, samples: list[Sample]) -> None:
    """Writes `golden.npz` with arrays `<point>/in/<name>` and `<point>/out/<name>`, and no pickles."""
    save = np.savez_compressed if sum(sample.nbytes for sample in samples) <= _ZIPPED_BYTES else np.savez
    arrays = {
        f"{sample.point.label}/{side}/{name}": array
        for sample in samples
        for side, side_arrays in (("in", sample.inputs), ("out", sample.outputs))
        for name, array in side_arrays.items()
    }
    save(path, allow_pickle=False, **arrays)


def read_golden(path: Path) -> list[Sample]:
    """The samples of a `golden.npz`, in the order in which they were written."""
    samples: dict[str, Sample] = {}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            label, side, name = key.split("/", 2)
            _put(samples, label, side, name, file[key])
    return list(samples.values())


def golden(samples: list[Sample]) -> list[Sample]:
    """The smallest sample, and the smallest one of several rows with every other size above 1 as well, as far as there is one.

    At a size of 1 every mask is full and every length the same, which would prove nothing about them.
    """
    by_size = sorted(samples, key=lambda sample: sample.nbytes)
    several_rows = [sample for sample in by_size if sample.point.sizes.get(BATCH, 0) >= 2]
    telling = [sample for sample in several_rows or by_size if min(sample.point.sizes.values(), default=0) >= 2]
    chosen = telling[:1] or several_rows[:1] or by_size[:1]
    return chosen + [sample for sample in by_size if sample is not chosen[0]][:1]


def _entries(directory: Path) -> list[list[str]]:
    index = directory / _INDEX
    entries: list[list[str]] = json.loads(index.read_text()) if index.exists() else []
    return entries


def _put(samples: dict[str, Sample], label: str, side: str, name: str, array: np.ndarray) -> None:
    sample = samples.setdefault(label, Sample(Point.parse(label)))
    (sample.inputs if side == "in" else sample.outputs)[name] = array
