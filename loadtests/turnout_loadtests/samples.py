"""The records of a load test: one sample per request, kept raw so that percentiles are exact."""

import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Sample(NamedTuple):
    """One finished request; times are of `time.perf_counter` in the process that sent it."""

    began_s: float
    ended_s: float
    code: str  # the gRPC status, "OK" for an answer
    device: str  # the device that answered; empty for a failure
    batch_size: int  # rows in the run that the request was part of; 0 if the server doesn't say
    queue_us: int
    compute_us: int


@dataclass(frozen=True)
class Samples:
    """The samples of one process as columns (samples,), and the window that is measured."""

    began_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    code: NDArray[np.str_]
    device: NDArray[np.str_]
    batch_size: NDArray[np.int64]
    queue_us: NDArray[np.int64]
    compute_us: NDArray[np.int64]
    window_s: NDArray[np.float64]  # (begin, end) on the same clock
    client_cpu_s: float  # processor time of the sending process within the window

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @staticmethod
    def load(path: Path) -> "Samples":
        with np.load(path, allow_pickle=False) as columns:
            return Samples(**{field.name: columns[field.name] for field in fields(Samples)})


class Recorder:
    """Collects the samples of this process. The measured window lasts from `start`, after the warm-up, to `stop`."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._window_s = (float("inf"), float("inf"))
        self._cpu_s = (0.0, 0.0)

    def start(self) -> None:
        self._window_s = (time.perf_counter(), float("inf"))
        self._cpu_s = (time.process_time(), float("inf"))

    def stop(self) -> None:
        """Ends the window; requests that began within it may still finish and be added."""
        self._window_s = (self._window_s[0], time.perf_counter())
        self._cpu_s = (self._cpu_s[0], time.process_time())

    def counts(self, began_s: float) -> bool:
        """Whether a request that began at this time is within the window."""
        begin_s, end_s = self._window_s
        return begin_s <= began_s < end_s

    def add(self, sample: Sample) -> None:
        self._samples.append(sample)

    def samples(self) -> Samples:
        """All samples so far, including the warm-up's: a request that began in the warm-up may end in the window."""
        columns: list[Any] = list(zip(*self._samples, strict=True)) or [()] * len(Sample._fields)
        began_s, ended_s, code, device, batch_size, queue_us, compute_us = columns
        return Samples(
            began_s=np.array(began_s, np.float64),
            ended_s=np.array(ended_s, np.float64),
            code=np.array(code, np.str_),
            device=np.array(device, np.str_),
            batch_size=np.array(batch_size, np.int64),
            queue_us=np.array(queue_us, np.int64),
            compute_us=np.array(compute_us, np.int64),
            window_s=np.array(self._window_s),
            client_cpu_s=self._cpu_s[1] - self._cpu_s[0],
        )
