"""A session for each of a few numbers of rows, for providers that prepare a run for its exact shapes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from turnout_server.core.errors import FailedPrecondition, Overloaded, ServingError
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.core.signatures import TensorSpec
from turnout_server.devices.binding import BoundRun
from turnout_server.devices.buckets import bucket_for
from turnout_server.devices.cuda_graphs import padded
from turnout_server.devices.cuda_runtime import GpuMemory, shortage_of
from turnout_server.devices.device import Device
from turnout_server.devices.memory_layouts import MemoryLayout
from turnout_server.devices.sessions import OnnxSession, Run, staged_in_place
from turnout_server.devices.synthetic import synthetic_inputs
from turnout_server.devices.tensor_memory import TensorMemory


class BucketSession:
    """Sessions of one model, each of which only ever runs one number of rows, and one for everything else.

    Args:
        rows: the buckets, ascending.
        gpu: the GPU's memory, of which a share stays free; None where the device is none, or nobody knows.

    Attributes:
        buckets: those that there was memory for.

    Raises:
        FailedPrecondition, Overloaded: as OnnxSession.
    """

    def __init__(
        self, path: Path, device: Device, options: RuntimeOptions, rows: Sequence[int], gpu: GpuMemory | None = None
    ) -> None:
        self.plain = OnnxSession(path, device, options)
        self.inputs, self.outputs, self.placement = self.plain.inputs, self.plain.outputs, self.plain.placement
        require_rows((*self.inputs, *self.outputs))
        self.notes: list[str] = []
        self._sessions: dict[int, OnnxSession] = {}
        names = [spec.name for spec in self.outputs]
        for size in rows:
            if shortage := shortage_of(gpu):
                self.notes.append(f"no session for {size} rows: {shortage}")
                break
            try:
                session = OnnxSession(path, device, options)
                session.run(synthetic_inputs(self.inputs, size, seed=0), names)
            except Overloaded as error:
                self.notes.append(f"no session for {size} rows: {error}")
                break
            except ServingError:
                pass  # synthetic inputs don't run; requests will be the first to be prepared for
            self._sessions[size] = session
        self.buckets = tuple(self._sessions)

    def prepare(self, layout: MemoryLayout, memory: TensorMemory) -> Callable[[], dict[str, np.ndarray]]:
        """A run on tensors in shared memory."""
        return BoundRun(self._sessions.get(layout.bucket, self.plain), layout, memory)

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Runs once, padded to a bucket if it fits one; see Session.run."""
        sizes = {len(array) if array.shape else 0 for array in inputs.values()}
        rows = sizes.pop() if len(sizes) == 1 else 0
        size = bucket_for(rows, self.buckets) if rows else 0
        if not size:
            return self.plain.run(inputs, outputs)
        results = self._sessions[size].run({name: padded(array, size) for name, array in inputs.items()}, outputs)
        return [result[:rows] for result in results]

    def stage(self, requests: Sequence[Mapping[str, np.ndarray]], outputs: Sequence[str]) -> AbstractContextManager[Run]:
        """See Session.stage."""
        return staged_in_place(self, requests, outputs)

    def trim(self) -> None:
        """See Session.trim."""
        for session in (self.plain, *self._sessions.values()):
            session.trim()


def require_rows(specs: Sequence[TensorSpec]) -> None:
    """Raises FailedPrecondition where the first axis of a tensor isn't free, so that it can't be padded."""
    for spec in specs:
        if spec.shape[:1] != (-1,):
            raise FailedPrecondition(f"'{spec.name}' has the shape {list(spec.shape)}, whose first axis is not free")
        if spec.datatype.name == "BYTES":
            raise FailedPrecondition(f"'{spec.name}' is BYTES, which is not padded")
