"""A session in a device's process, as its callers see it."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from turnout_server.core.errors import DeviceLost, InternalError, ServingError
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.core.signatures import TensorSpec
from turnout_server.devices import messages
from turnout_server.devices.buckets import bucket_for
from turnout_server.devices.device import Device
from turnout_server.devices.memory_layouts import MemoryLayout, layout_of
from turnout_server.devices.process import LOAD_TIMEOUT_S, DeviceProcess, Slot
from turnout_server.devices.run_limit import limit_s
from turnout_server.devices.sessions import Run
from turnout_server.devices.weight_files import WeightFiles
from turnout_server.scheduling.batching import collate

logger = logging.getLogger(__name__)

#: A run may take this many times as long as the longest one of its shapes so far, but at least the device's `watchdog_s`.
WATCHDOG_FACTOR = 20.0
#: The first run of new shapes may take this long, because kernels may be compiled for them.
NEW_SHAPES_TIMEOUT_S = 60.0
#: Shapes that are remembered for each session.
MAX_SHAPES = 256

Shapes = tuple[tuple[int, ...], ...]
_uids = count(1)


class Owner(Protocol):
    """The engine that a session belongs to."""

    device: Device

    def process(self) -> DeviceProcess: ...
    def dropped(self, number: int) -> None: ...
    def ran(self, process: DeviceProcess, *, failed: bool) -> None: ...


class RemoteSession:
    """A session in a worker process; callers use it like one in this process.

    Args:
        number: what the worker calls it.
        wanted: the numbers of rows to pad runs to.
        graphs: whether to try a CUDA graph for each of them.
    """

    def __init__(
        self,
        owner: Owner,
        number: int,
        path: Path,
        options: RuntimeOptions,
        wanted: Sequence[int] = (),
        *,
        graphs: bool = False,
    ) -> None:
        self._owner = owner
        self.number = number
        self._weights = WeightFiles.of(path)
        self.options = options
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.placement: Mapping[str, int] = {}
        self.buckets: Sequence[int] = ()
        self.notes: Sequence[str] = ()
        self._wanted = tuple(wanted)
        self._with_graphs = graphs
        self._reopen_error: str | None = None
        self._layouts: dict[tuple[Shapes, tuple[str, ...], int], tuple[int, MemoryLayout]] = {}
        #: By shapes, over all processes: the first run in the next process takes as long as in this one.
        self._longest_s: dict[Shapes, float] = {}

    def __del__(self) -> None:
        self._owner.dropped(self.number)

    def open_in(self, process: DeviceProcess) -> None:
        """Opens the model in this process."""
        self.inputs, self.outputs, self.placement, self.buckets, self.notes = process.ask(
            "open", self.number, str(self._weights.model), self.options, self._wanted, self._with_graphs
        )

    def reopen_in(self, process: DeviceProcess) -> None:
        """Opens the model again. If that fails, because its file isn't the same any more, other models still come back."""
        self._reopen_error = None
        try:
            self.open_in(process)
            self._weights.require_unchanged()
        except DeviceLost:
            raise
        except ServingError as error:
            self._reopen_error = f"the model could not be opened again when the device restarted: {error}"
            logger.error("%s on %s: %s", self._weights.model, self._owner.device.name, self._reopen_error)

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """See Session.run. Raises DeviceLost besides."""
        with self.stage([inputs], outputs) as run:
            return [np.array(array) for array in run()]

    @contextmanager
    def stage(self, requests: Sequence[Mapping[str, np.ndarray]], outputs: Sequence[str]) -> Iterator[Run]:
        """See Session.stage. Raises DeviceLost besides.

        The worker reads the inputs where they are put here, and writes the outputs where callers read them: one copy in, and
        none out. Tensors whose sizes aren't known from the inputs' shapes travel by `_by_reference`.
        """
        process = self._owner.process()
        if self._reopen_error is not None:
            raise DeviceLost(self._reopen_error)
        with process.slot() as slot:
            if self._fits(requests):
                yield self._in_place(process, slot, requests, tuple(outputs))
            else:
                yield self._by_reference(process, slot, collate(requests), outputs)

    def trim(self) -> None:
        """See Session.trim."""
        self._owner.process().ask("trim", self.number)

    def _in_place(
        self, process: DeviceProcess, slot: Slot, requests: Sequence[Mapping[str, np.ndarray]], outputs: tuple[str, ...]
    ) -> Run:
        rows = self._rows(requests)
        bucket = bucket_for(rows, self.buckets) if rows else 0
        first = requests[0]
        size = bucket or rows
        shapes = tuple(first[spec.name].shape if size is None else (size, *first[spec.name].shape[1:]) for spec in self.inputs)
        uid, layout = self._layout(shapes, outputs, size, bucket)
        prepared = slot.prepare(uid, layout)
        for spec, target in zip(self.inputs, prepared.inputs, strict=True):
            _fill(target, [request[spec.name] for request in requests])

        def run() -> list[np.ndarray]:
            kind, references = "unknown layout", None
            if prepared.described:
                message = prepared.message if limit_s() is None else messages.run(uid, layout.size, _remaining_s())
                kind, references = self._exchange(process, slot, shapes, message)
            if kind == "unknown layout":
                message = messages.describe_and_run(uid, self.number, layout, _remaining_s())
                kind, references = self._exchange(process, slot, shapes, message)
                prepared.described = True
            results = prepared.outputs if not references else {**prepared.outputs, **slot.memory.get(references)}
            return [results[name][:rows] if bucket else results[name] for name in outputs]

        return run

    def _by_reference(
        self, process: DeviceProcess, slot: Slot, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> Run:
        shapes = tuple(array.shape for array in inputs.values())
        placed = slot.memory.put(inputs)

        def run() -> list[np.ndarray]:
            message = messages.call("run", self.number, placed, list(outputs), _remaining_s())
            _, references = self._exchange(process, slot, shapes, message)
            results: dict[str, np.ndarray] = slot.memory.get(references)
            return [results[name] for name in outputs]

        return run

    def _fits(self, requests: Sequence[Mapping[str, np.ndarray]]) -> bool:
        """Whether requests have exactly the inputs of the model, none of them text; else the model has to refuse them."""
        for request in requests:
            if len(request) != len(self.inputs):
                return False
            for spec in self.inputs:
                array = request.get(spec.name)
                if array is None or array.dtype != spec.datatype.dtype or spec.datatype.name == "BYTES":
                    return False
                if len(array.shape) != len(spec.shape):
                    return False
        return True

    def _rows(self, requests: Sequence[Mapping[str, np.ndarray]]) -> int | None:
        """The size of axis 0 that the batched inputs share; None if they share none."""
        sizes = {array.shape[0] if array.shape else None for array in requests[0].values()}
        if len(sizes) > 1:
            return None
        own = sizes.pop() if sizes else None
        if own is None or len(requests) == 1:
            return own
        name = self.inputs[0].name
        return sum(len(request[name]) for request in requests)

    def _layout(self, shapes: Shapes, outputs: tuple[str, ...], rows: int | None, bucket: int) -> tuple[int, MemoryLayout]:
        """The layout of a run, with its number."""
        key = shapes, outputs, bucket
        known = self._layouts.get(key)
        if known is None:
            if len(self._layouts) >= MAX_SHAPES:
                self._layouts.clear()
            by_name = {spec.name: spec for spec in self.outputs}
            names = {spec.name: shape for spec, shape in zip(self.inputs, shapes, strict=True)}
            made = layout_of(names, self.inputs, [by_name[name] for name in outputs], rows, bucket)
            known = self._layouts[key] = next(_uids), made
        return known

    def _exchange(self, process: DeviceProcess, slot: Slot, shapes: Shapes, message: bytes) -> tuple[str, Any]:
        """Sends a run to the worker, and remembers how long it took.

        Raises:
            DeviceLost: there was no answer in time.
            ServingError: the worker's own.
        """
        started_s = time.monotonic()
        try:
            answer = process.exchange(slot.channel, message, self._timeout_s(shapes))
        except InternalError:
            self._owner.ran(process, failed=True)
            raise
        took_s = time.monotonic() - started_s
        if took_s > self._longest_s.get(shapes, 0.0):
            if len(self._longest_s) >= MAX_SHAPES:
                self._longest_s.clear()
            self._longest_s[shapes] = took_s
        self._owner.ran(process, failed=False)
        return answer

    def _timeout_s(self, shapes: Shapes) -> float:
        if not self._longest_s:
            return LOAD_TIMEOUT_S
        longest_s = self._longest_s.get(shapes)
        if longest_s is None:
            return max(self._owner.device.watchdog_s, NEW_SHAPES_TIMEOUT_S)
        return max(self._owner.device.watchdog_s, WATCHDOG_FACTOR * longest_s)


def _remaining_s() -> float:
    """How long a run may take; 0 for any time."""
    at_s = limit_s()
    return 0.0 if at_s is None else max(1e-3, at_s - time.monotonic())


def _fill(target: np.ndarray, arrays: Sequence[np.ndarray]) -> None:
    """Joins arrays along axis 0 in a place that may be larger; the rest becomes zeros."""
    if len(arrays) == 1 and arrays[0].shape == target.shape:
        target[...] = arrays[0]
        return
    end = 0
    for array in arrays:
        start, end = end, end + len(array)
        target[start:end] = array
    target[end:] = 0
