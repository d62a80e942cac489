"""Examines a model by running it: which sizes it takes, and what it answers there.

The model is only known as a function of arrays, so that PyTorch, ONNX Runtime and a reference of the user's are examined alike.
"""

import math
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from turnout_exporter.compare import compare
from turnout_exporter.errors import ConversionError, ExportError, SourceError
from turnout_exporter.spec import reference
from turnout_exporter.spec.inputspec import InputSpec, dims_of
from turnout_exporter.spec.points import BATCH, Limits, Point, Sizes, plan
from turnout_exporter.spec.reference import Arrays, Sample
from turnout_exporter.spec.signature import outputs_of
from turnout_exporter.spec.sizes import Search, Trial

Run = Callable[[Arrays], Arrays]  #: leaves the inputs as they are
Draw = Callable[[Point], Mapping[str, Any]]  #: what `--samples` names: a value for some or all of the inputs

_TIED = "{} were only seen to work at the same size: give them the same name in --input, so that it can change"
_STEPPED = (
    "{dim} was only seen to work in steps of {step} ({low}, {second}, ...), so requests of other sizes are refused; if it "
    "takes them, state them with --range {dim}=low..high"
)
_CORNER_CPU_S = 4.0  #: the longest predicted run at which all sizes are tried at their largest together
_CORNER_BYTES = 64 * 2**20
_ROWS_ALONE = 4  #: the most rows to run alone
_ROUNDING = {"float16": 5e-3}  #: how much a row may differ, as a share of its scale; others by 1e-3, as for the server
_ROUNDED = 1e-3  #: the share of an output's integers that may differ: they may come from rounding


class Subject:
    """A model to examine, with its inputs."""

    def __init__(self, run: Run, inputs: list[InputSpec], draw: Draw | None = None) -> None:
        self.inputs = inputs
        self._run = run
        self._draw = draw
        self._first_peak_bytes = 0
        self.doubtful: set[str] = set()  #: the errors that may come from the sizes or values that were tried

    def inputs_at(self, point: Point) -> Arrays:
        """The values of the inputs at one point: those that `--samples` gives, and random ones for the others.

        Raises:
            SourceError: `--samples` gives something else than arrays of the inputs' shapes and types.
            SpecError: nothing says which values an input takes.
        """
        given = dict(self._draw(point)) if self._draw else {}
        for name in given.keys() - {spec.name for spec in self.inputs}:
            raise SourceError(f"--samples returns {name!r} at {point.label}, which is no input")
        random = point.random()
        return {
            spec.name: _fitting(spec, point, given[spec.name]) if spec.name in given else spec.draw(point.sizes, random)
            for spec in self.inputs
        }

    def sample_at(self, point: Point) -> Sample:
        """Runs the model at one point.

        Raises:
            ConversionError: it fails, or its outputs can't be used as a reference.
        """
        arrays = self.inputs_at(point)
        try:
            outputs = self._run(arrays)
        except ExportError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise ConversionError(f"the model itself fails at {point.label}: {_describe(error)}") from error
        for name in arrays.keys() & outputs.keys():
            raise ConversionError(f"an input and an output are both called {name!r}; rename the output with --output-names")
        for name, array in outputs.items():
            if array.size and array.dtype.kind == "f" and not np.isfinite(array).any():
                raise ConversionError(
                    f"output {name!r} has no finite value at {point.label}, which proves nothing; "
                    f"load --weights or give the inputs their range, @low:high"
                )
        return Sample(point, arrays, outputs)

    def row_alone(self, sample: Sample, row: int) -> Arrays:
        """The outputs for one row of a sample; none if the model doesn't take it alone."""
        try:
            return self._run({name: array[row : row + 1].copy() for name, array in sample.inputs.items()})
        except Exception:  # what it takes is found out elsewhere
            return {}

    def attempt(self, sizes: Sizes) -> Trial:
        """Runs the model at some sizes to see whether it takes them."""
        began_s = time.process_time()
        try:
            sample = self.sample_at(Point(sizes))
        except (ConversionError, SourceError) as error:
            if _may_come_from_inputs(error.__cause__):
                self.doubtful.add(str(error))
            return Trial(time.process_time() - began_s, error=str(error), is_exhausted=_is_exhausted(error.__cause__))
        cpu_s = time.process_time() - began_s
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._first_peak_bytes = self._first_peak_bytes or peak_bytes
        return Trial(cpu_s, sample.nbytes, peak_bytes - self._first_peak_bytes)


def find_base(subject: Subject, given: dict[str, Limits], caps: dict[str, int]) -> Sizes:
    """Sizes at which a model runs, small and different ones if it takes them.

    Args:
        given: the limits that the user states.
        caps: the largest sizes to try for other dimensions.

    Raises:
        ConversionError: it runs at none of the sizes that were tried.
    """
    dims = dims_of(subject.inputs)
    base, error = Search(subject.attempt, caps).base(dims, given)
    if error:
        advice = _advice([dim for dim in dims if dim not in given]) if error in subject.doubtful else ""
        raise ConversionError(f"{error}. {advice}" if advice else error)
    return base


def find_limits(
    subject: Subject, base: Sizes, given: dict[str, Limits], caps: dict[str, int]
) -> tuple[Sizes, dict[str, Limits]]:
    """The base within the limits; and how far each size may change: as the user states, else as far as the model ran."""
    return Search(subject.attempt, caps).limits(base, given)


def size_notes(subject: Subject, base: Sizes, limits: dict[str, Limits], given: dict[str, Limits]) -> list[str]:
    """What the user should know about the sizes that were found."""
    notes = [
        _STEPPED.format(dim=dim, step=limit.step, low=limit.low, second=limit.low + limit.step)
        for dim, limit in limits.items()
        if limit.step > 1 and dim not in given
    ]
    if tied := tied_dims(subject, base, limits, given):
        notes.append(_TIED.format(" and ".join(tied)))
    return notes


def tied_dims(subject: Subject, base: Sizes, limits: dict[str, Limits], given: dict[str, Limits]) -> list[str]:
    """The dimensions that can't change alone, but can together: they are one dimension under several names."""
    stuck = [dim for dim, limit in limits.items() if limit.low == limit.high and dim not in given]
    if len(stuck) < 2 or subject.attempt(base | {dim: base[dim] + 1 for dim in stuck}).error:
        return []
    return stuck


def points_of(subject: Subject, base: Sizes, limits: dict[str, Limits]) -> list[Point]:
    """The points to verify: the plan's, and the corner where all sizes are largest, if one run there is affordable."""
    points = plan(base, limits)
    corner = {dim: limit.high for dim, limit in limits.items()}
    if len(corner) < 2 or Point(corner) in points:
        return points
    trials = {dim: subject.attempt(base | {dim: size}) for dim, size in corner.items()}
    growth = {dim: size / base[dim] for dim, size in corner.items()}
    whole = math.prod(growth.values())
    predicted_s = max(trial.cpu_s * whole / growth[dim] for dim, trial in trials.items())
    predicted_bytes = max(trial.nbytes * whole / growth[dim] for dim, trial in trials.items())
    if predicted_s <= _CORNER_CPU_S and predicted_bytes <= _CORNER_BYTES:
        points.append(Point(corner))
    return points


def take_samples(subject: Subject, points: list[Point], directory: Path, show: Callable[[str], None]) -> list[Sample]:
    """Runs the model at each point, and adds the samples to a folder.

    Args:
        show: told how far it is.

    Raises:
        ConversionError: it fails at one of them, its outputs can't be used as a reference, or have other structures there.
    """
    for number, point in enumerate(points, 1):
        show(f"{number} of {len(points)}")
        reference.write(directory, [subject.sample_at(point)])
    samples = reference.read(directory)
    outputs_of(samples)
    return samples


def mixed_outputs(subject: Subject, sample: Sample) -> list[str]:
    """The outputs whose rows depend on the other rows of a batch, so that requests mustn't be run together.

    Args:
        sample: a batch. If its axis 0 isn't the batch everywhere, rows can't be told apart, and there are none.
    """
    rows = sample.point.sizes.get(BATCH, 1)
    tensors = (*sample.inputs.values(), *sample.outputs.values())
    if any(array.shape[:1] != (rows,) for array in tensors) or any(spec.dims.count(BATCH) != 1 for spec in subject.inputs):
        return []
    alone = [(row, subject.row_alone(sample, row)) for row in range(min(rows, _ROWS_ALONE)) if rows > 1]
    return [
        name
        for name, together in sample.outputs.items()
        if not all(_same_row(outputs[name], together[row : row + 1]) for row, outputs in alone if name in outputs)
    ]


def _same_row(alone: np.ndarray, together: np.ndarray) -> bool:
    if alone.shape != together.shape or alone.dtype.kind != "f":
        return alone.shape == together.shape and bool(np.count_nonzero(alone != together) <= _ROUNDED * alone.size)
    share = _ROUNDING.get(alone.dtype.name, 1e-3)
    return not compare("", "", together, alone, tolerance=share).problem


def _fitting(spec: InputSpec, point: Point, value: object) -> np.ndarray:
    array = np.asarray(value)
    shape, dtype = spec.shape(point.sizes), spec.datatype.dtype
    if array.shape != shape or (array.dtype.kind, array.dtype.itemsize) != (dtype.kind, dtype.itemsize or array.dtype.itemsize):
        raise SourceError(
            f"--samples returns {array.dtype.name}{list(array.shape)} for {spec.name!r} at {point.label}, "
            f"not {spec.datatype.spelling}{list(shape)} as --input says"
        )
    return array


def differing(one: Arrays, other: Arrays) -> list[str]:
    """The outputs of two runs that differ by more than rounding."""
    return [
        name
        for name, array in one.items()
        if name not in other
        or array.shape != other[name].shape
        or not (
            np.allclose(array, other[name], rtol=1e-4, atol=1e-6, equal_nan=True)
            if array.dtype.kind == "f"
            else np.array_equal(array, other[name])
        )
    ]


def _describe(error: BaseException) -> str:
    """The first lines of an error, without the advice that libraries append."""
    lines = str(error).strip().splitlines()
    if "sorted in decreasing order" in str(error):
        return (
            "pack_padded_sequence got unsorted lengths. Requests come in any order: call it with enforce_sorted=False, or "
            "write :sorted behind the input if the model must get them sorted"
        )
    return f"{type(error).__name__}: {' '.join(line.strip() for line in lines[:3])}".rstrip(": ")


def _may_come_from_inputs(error: BaseException | None) -> bool:
    """Whether other sizes or values may help; not where code uses something that isn't there, such as a GPU or an attribute."""
    if isinstance(error, NotImplementedError) or "CUDA" in str(error):
        return False
    is_runtimes = type(error).__module__.startswith("onnxruntime")
    return is_runtimes or isinstance(error, (IndexError, RuntimeError, ValueError, ArithmeticError, AssertionError))


def _is_exhausted(error: BaseException | None) -> bool:
    return isinstance(error, MemoryError) or "allocate" in str(error)


def _advice(free: list[str]) -> str:
    sizes = (
        f"Growing sizes of {', '.join(free)} were tried: if it takes certain ones, say which with --range dim=low..high, or "
        f"give the size as a number. "
        if free
        else ""
    )
    return f"{sizes}If it doesn't take such values, give their range, @low:high, or return fitting ones from --samples"
