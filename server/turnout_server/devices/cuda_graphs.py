"""Sessions that run in buffers which stay where they are, so that CUDA can replay the run.

A CUDA graph is a run that was recorded with the addresses it read and wrote; replaying it costs one launch instead of one for
each kernel. So every number of rows that is to be replayed, a bucket, has inputs and outputs of its own on the device. A run
goes into the smallest bucket that it fits, filled up with zeros; what fits none runs plainly.

A bucket is used only once its answers were those of plain runs, with other numbers at the same addresses and with rows left
over. A graph belongs to the thread that captured it, and nothing else may use CUDA meanwhile: hence one lane, in a process of
the device's own, and `bind`, which that lane calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

from turnout_server.core.errors import FailedPrecondition
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.core.signatures import TensorSpec
from turnout_server.devices.device import Device
from turnout_server.devices.ort_errors import first_line, run_error
from turnout_server.devices.sessions import GRAPH_ID, OnnxSession
from turnout_server.devices.synthetic import close, synthetic_inputs


class Bucket:
    """Inputs and outputs of so many rows on a device, bound once."""

    def __init__(self, session: OnnxSession, device: Device, rows: int) -> None:
        self.rows = rows
        self._device = device
        self._runtime = session.runtime
        self._inputs = {spec.name: self._buffer(spec) for spec in session.inputs}
        self._outputs = {spec.name: self._buffer(spec) for spec in session.outputs}
        self._staging = {spec.name: np.zeros(_shape(spec, rows), spec.datatype.dtype) for spec in session.inputs}
        self._binding = self._runtime.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry(GRAPH_ID, str(rows))

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """See Session.run; at most as many rows as there are."""
        try:
            rows = 0
            for name, value in self._inputs.items():
                rows = len(inputs[name])
                value.update_inplace(self._filled_up(name, inputs[name]))
            self._runtime.run_with_iobinding(self._binding, self._options)
            return [self._outputs[name].numpy()[:rows].copy() for name in outputs]
        except Exception as error:
            raise run_error(error, self._device) from error

    def _buffer(self, spec: TensorSpec) -> onnxruntime.OrtValue:
        kind, number = ("cuda", int(self._device.provider_options["device_id"])) if self._device.is_cuda else ("cpu", 0)
        shape = _shape(spec, self.rows)
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, spec.datatype.dtype, kind, number)

    def _filled_up(self, name: str, array: np.ndarray) -> np.ndarray:
        if len(array) == self.rows:
            return array
        staged = self._staging[name]
        staged[: len(array)] = array
        staged[len(array) :] = 0
        return staged


class GraphSession:
    """A session with a bucket for each of the device's `graph_rows` that was shown to be right.

    Attributes:
        graphs: by rows, why a bucket isn't used; empty for those that are.

    Raises:
        FailedPrecondition, Overloaded: as OnnxSession does.
    """

    def __init__(self, path: Path, device: Device, options: RuntimeOptions) -> None:
        self._device = device
        self._plainly = (path, replace(device, graph_rows=()), options)
        self._buckets: dict[int, Bucket] = {}
        self.graphs: dict[int, str] = {}
        try:
            self._session = OnnxSession(path, device, options)
        except FailedPrecondition as error:  # ONNX Runtime refuses control flow, and nodes that stay on the CPU
            self._session = OnnxSession(*self._plainly)
            self.graphs = dict.fromkeys(device.graph_rows, str(error))
        self.inputs, self.outputs, self.placement = self._session.inputs, self._session.outputs, self._session.placement

    def bind(self) -> dict[int, str]:
        """Makes the buckets; returns `graphs`. Called once, by the thread that will run them, while nothing else runs."""
        if self.graphs:
            return self.graphs
        try:
            self._make_buckets()
        except Exception as error:  # what a capture that failed leaves behind nobody knows
            self._buckets.clear()
            self.graphs = dict.fromkeys(self._device.graph_rows, first_line(error.__cause__ or error))
        if not self._buckets:
            del self._session  # first, because two may not fit
            self._session = OnnxSession(*self._plainly)
        return self.graphs

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """See Session.run."""
        bucket = self._bucket_for(inputs) if self._buckets else None
        return (bucket or self._session).run(inputs, outputs)

    def trim(self) -> None:
        """See Session.trim."""
        self._session.trim()

    def _make_buckets(self) -> None:
        _require_fixed((*self.inputs, *self.outputs))
        for rows in self._device.graph_rows:
            bucket = Bucket(self._session, self._device, rows)
            self.graphs[rows] = self._doubt(bucket)
            if not self.graphs[rows]:
                self._buckets[rows] = bucket

    def _bucket_for(self, inputs: Mapping[str, np.ndarray]) -> Bucket | None:
        """The smallest that these fit; None if there is none, or if they are nothing that the model takes."""
        shapes = {name: array.shape for name, array in inputs.items()}
        rows = max((shape[0] for shape in shapes.values() if shape), default=0)
        if not rows or shapes != {spec.name: _shape(spec, rows) for spec in self.inputs}:
            return None
        return next((bucket for bucket in self._buckets.values() if rows <= bucket.rows), None)

    def _doubt(self, bucket: Bucket) -> str:
        """Why a bucket's answers aren't to be trusted; empty if they are."""
        names = [spec.name for spec in self.outputs]
        seen: list[list[np.ndarray]] = []
        for seed, rows in enumerate((bucket.rows, bucket.rows, max(1, bucket.rows // 2))):
            inputs = _numbers(self.inputs, rows, seed)
            right = self._session.run(inputs, names)
            if not _all_close(bucket.run(inputs, names), right):
                return f"its answers for {rows} rows, after {len(seen)} runs before, are not those of a plain run"
            seen.append(right)
        if _all_close(seen[0], seen[1]):
            return "other numbers give the same answers, so nothing was shown"
        return ""


def _require_fixed(specs: Sequence[TensorSpec]) -> None:
    """Raises FailedPrecondition where rows alone don't say how large every buffer has to be."""
    for spec in specs:
        if spec.shape[:1] != (-1,) or -1 in spec.shape[1:]:
            raise FailedPrecondition(f"'{spec.name}' has the shape {list(spec.shape)}, and only the first axis may be free")
        if spec.datatype.name in ("BF16", "BYTES"):
            raise FailedPrecondition(f"'{spec.name}' is {spec.datatype.name}, which cannot be bound from numpy")


def _shape(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    return (rows, *spec.shape[1:])


def _numbers(specs: Sequence[TensorSpec], rows: int, seed: int) -> dict[str, np.ndarray]:
    """Inputs that differ by their seed, whole numbers too: 0 and 1, because a larger one may be no index."""
    made = synthetic_inputs(tuple(specs), rows, seed)
    generator = np.random.default_rng(seed)
    whole = {name: array for name, array in made.items() if array.dtype.kind in "biu"}
    return made | {name: generator.integers(0, 2, array.shape).astype(array.dtype) for name, array in whole.items()}


def _all_close(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return all(close(a, b) for a, b in zip(some, others, strict=True))
