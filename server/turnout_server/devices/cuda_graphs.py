"""Sessions whose runs CUDA replays.

A CUDA graph is a run that was recorded with the addresses it read and wrote; replaying it costs one launch instead of one for
each kernel, and plans no convolution. Every bucket has inputs and outputs of its own on the device. Graphs of several sizes in
one session share its weights and work memory: replayed in turn, they took what each took alone (docs/adr, docs/results/gpu).

A bucket is used only if its answers are those of plain runs, with other values at the same addresses. A graph belongs to the
thread that captured it, its work memory is also that of plain runs, and nothing else may use CUDA during a capture. So one
thread captures and runs everything of such a session (see `worker`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime

from turnout_server.core.errors import FailedPrecondition
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.core.signatures import TensorSpec
from turnout_server.devices.buckets import bucket_for
from turnout_server.devices.cuda_runtime import GpuMemory, shortage_of
from turnout_server.devices.device import Device
from turnout_server.devices.memory_layouts import MemoryLayout
from turnout_server.devices.ort_errors import first_line, run_error
from turnout_server.devices.sessions import GRAPH_ID, OnnxSession
from turnout_server.devices.synthetic import close, synthetic_inputs
from turnout_server.devices.tensor_memory import TensorMemory


class Gpu(GpuMemory, Protocol):
    """What knows a GPU's memory, and copies from it."""

    def copy_to_host(self, target: int, source: int, size: int) -> bool: ...


class Bucket:
    """Inputs and outputs of so many rows on a device, bound once."""

    def __init__(self, session: OnnxSession, device: Device, rows: int, gpu: Gpu | None) -> None:
        self.rows = rows
        self._device = device
        self._gpu = gpu
        self._runtime = session.runtime
        self._inputs = {spec.name: self._buffer(spec) for spec in session.inputs}
        self._outputs = {spec.name: self._buffer(spec) for spec in session.outputs}
        self._binding = self._runtime.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry(GRAPH_ID, str(rows))

    def run(self, inputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> None:
        """Runs on arrays of exactly the bucket's rows.

        Args:
            inputs: one for each of the model's inputs.
            targets: arrays that get the outputs of their names.

        Raises:
            ServingError: what went wrong, in words for the caller.
        """
        try:
            for name, value in self._inputs.items():
                value.update_inplace(inputs[name])
            self._runtime.run_with_iobinding(self._binding, self._options)
            for name, target in targets.items():
                self._fetch(self._outputs[name], target)
        except Exception as error:
            raise run_error(error, self._device) from error

    def _fetch(self, value: Any, target: np.ndarray) -> None:
        if self._gpu is None:
            target[...] = value.numpy()
        elif not self._gpu.copy_to_host(target.ctypes.data, value.data_ptr(), target.nbytes):
            raise RuntimeError("an output could not be copied from the GPU")

    def _buffer(self, spec: TensorSpec) -> onnxruntime.OrtValue:
        kind, number = ("cuda", int(self._device.provider_options["device_id"])) if self._device.is_cuda else ("cpu", 0)
        shape = (self.rows, *spec.shape[1:])
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, spec.datatype.dtype, kind, number)


class GraphSession:
    """A session with a CUDA graph for each of some numbers of rows.

    All methods but the properties belong to one thread.

    Args:
        rows: the buckets to try, ascending.
        gpu: the GPU's memory; None where the device is none (in tests).

    Attributes:
        buckets: those that work.
        notes: why the others don't.

    Raises:
        FailedPrecondition: no bucket works, or ONNX Runtime refuses the model with graphs; the text says why.
        Overloaded: the device doesn't have the memory for the model.
    """

    def __init__(
        self, path: Path, device: Device, options: RuntimeOptions, rows: Sequence[int], gpu: Gpu | None = None
    ) -> None:
        self._device = device
        self._gpu = gpu
        self.notes: list[str] = []
        wanted = list(rows)
        while True:
            self.plain = OnnxSession(path, device, options, graphs=True)
            require_fixed((*self.plain.inputs, *self.plain.outputs))
            self._buckets: dict[int, Bucket] = {}
            failed = self._capture(wanted)
            if not failed:
                break
            wanted = [size for size in wanted if size < failed]  # the rest anew, because a failed capture may leave traces
            del self.plain
            if not wanted:
                raise FailedPrecondition("; ".join(self.notes))
        if not self._buckets:
            raise FailedPrecondition("; ".join(self.notes))
        self.buckets = tuple(self._buckets)
        self.inputs, self.outputs, self.placement = self.plain.inputs, self.plain.outputs, self.plain.placement

    def prepare(self, layout: MemoryLayout, memory: TensorMemory) -> Callable[[], dict[str, np.ndarray]]:
        """A run of a bucket on tensors in shared memory; returns the outputs that aren't in their place there."""
        bucket = self._buckets[layout.bucket]

        def run() -> dict[str, np.ndarray]:
            inputs = {placed.name: memory.view(placed) for placed in layout.inputs}
            bucket.run(inputs, {placed.name: memory.view(placed) for placed in layout.placed})
            return {}

        return run

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Runs once, padded to a bucket if it fits one; see Session.run."""
        shapes = {name: array.shape for name, array in inputs.items()}
        rows = max((shape[0] for shape in shapes.values() if shape), default=0)
        size = bucket_for(rows, self.buckets) if rows else 0
        if not size or shapes != {spec.name: (rows, *spec.shape[1:]) for spec in self.inputs}:
            return self.plain.run(inputs, outputs)
        specs = {spec.name: spec for spec in self.outputs}
        targets = {name: np.empty((size, *specs[name].shape[1:]), specs[name].datatype.dtype) for name in outputs}
        self._buckets[size].run({name: padded(array, size) for name, array in inputs.items()}, targets)
        return [targets[name][:rows] for name in outputs]

    def trim(self) -> None:
        """Does nothing: what isn't in use at this moment may be a graph's work memory."""

    def _capture(self, wanted: Sequence[int]) -> int:
        """Makes the buckets; returns the size at which a capture failed, or 0."""
        for rows in wanted:
            if shortage := shortage_of(self._gpu):
                self.notes.append(f"no CUDA graph for {rows} rows: {shortage}")
                return 0
            try:
                bucket = Bucket(self.plain, self._device, rows, self._gpu)
                doubt = self._doubt(bucket)
            except Exception as error:
                self.notes.append(f"no CUDA graph for {rows} rows: {first_line(error.__cause__ or error)}")
                return rows
            if doubt:
                self.notes.append(f"no CUDA graph for {rows} rows: {doubt}")
            else:
                self._buckets[rows] = bucket
        return 0

    def _doubt(self, bucket: Bucket) -> str:
        """Why a bucket's answers aren't to be trusted; empty if they are. Its first runs capture the graph."""
        names = [spec.name for spec in self.plain.outputs]
        first, second = (_values(self.plain.inputs, bucket.rows, seed) for seed in (0, 1))
        seen: list[list[np.ndarray]] = []
        for number, inputs in enumerate((first, second, first)):
            right = self.plain.run(inputs, names)
            targets = {name: np.empty_like(array) for name, array in zip(names, right, strict=True)}
            bucket.run(inputs, targets)
            if not all(close(targets[name], array) for name, array in zip(names, right, strict=True)):
                return f"its answers after {number} earlier runs are not those of a plain run"
            seen.append(right)
        if all(close(a, b) for a, b in zip(seen[0], seen[1], strict=True)):
            return "other inputs give the same answers, so nothing was shown"
        return ""


def padded(array: np.ndarray, rows: int) -> np.ndarray:
    """The array, (n, ...), with zeros up to so many rows."""
    if len(array) == rows:
        return np.ascontiguousarray(array)
    target = np.zeros((rows, *array.shape[1:]), array.dtype)
    target[: len(array)] = array
    return target


def require_fixed(specs: Sequence[TensorSpec]) -> None:
    """Raises FailedPrecondition where the number of rows alone doesn't say how large every buffer has to be."""
    for spec in specs:
        if spec.shape[:1] != (-1,) or -1 in spec.shape[1:]:
            raise FailedPrecondition(f"'{spec.name}' has the shape {list(spec.shape)}, and only the first axis may be free")
        if spec.datatype.name in ("BF16", "BYTES"):
            raise FailedPrecondition(f"'{spec.name}' is {spec.datatype.name}, which cannot be bound from numpy")


def _values(specs: Sequence[TensorSpec], rows: int, seed: int) -> dict[str, np.ndarray]:
    """Inputs that differ by their seed, integers too: 0 and 1, because a larger one may be no index."""
    made = synthetic_inputs(tuple(specs), rows, seed)
    generator = np.random.default_rng(seed)
    whole = {name: array for name, array in made.items() if array.dtype.kind in "biu"}
    return made | {name: generator.integers(0, 2, array.shape).astype(array.dtype) for name, array in whole.items()}
