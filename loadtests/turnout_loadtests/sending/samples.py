"""The records of a load: one sample per request, kept raw so that percentiles are exact."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

OK = "OK"
#: The code of a request that was still in flight when its test ended.
UNFINISHED = "UNFINISHED"
#: The device of an answer that doesn't state one.
UNSTATED = "unstated"

MAX_TEXTS, MAX_TEXT = 20, 300


class Sample(NamedTuple):
    """One finished request; times are of `time.perf_counter`, which processes of one machine share on Linux."""

    due_s: float  # when it was to be sent; in a closed load, when it was
    began_s: float
    ended_s: float
    code: str  # the gRPC status, `OK` for an answer
    device: str = ""  # the device that answered; empty for a failure
    precision: str = ""
    batch_size: int = 0  # rows in the run that the request was part of; 0 if the server doesn't say
    decode_us: int = 0
    queue_us: int = 0
    compute_us: int = 0


_TYPES: dict[str, type] = {
    "due_s": np.float64, "began_s": np.float64, "ended_s": np.float64, "code": np.str_, "device": np.str_,
    "precision": np.str_, "batch_size": np.int64, "decode_us": np.int64, "queue_us": np.int64, "compute_us": np.int64,
}  # fmt: skip


@dataclass(frozen=True)
class Samples:
    """The samples of a load as columns (samples,), and what was counted while its window was measured.

    Attributes:
        window_s: begin and end (2,), on the samples' clock; infinite if it never began or ended.
        dropped: arrivals of an open load, in the window, that weren't sent because too many requests were in flight.
        in_flight: requests in flight on average in the window, counted apart from the samples.
        client_cpu_s: processor time of the sending processes within the window.
        client_wait_s: time for which their threads could run and waited for a processor; 0 if the system doesn't say.
        processes: how many processes sent.
        texts: failures in the window by `<code>: <text>`.
    """

    due_s: NDArray[np.float64]
    began_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    code: NDArray[np.str_]
    device: NDArray[np.str_]
    precision: NDArray[np.str_]
    batch_size: NDArray[np.int64]
    decode_us: NDArray[np.int64]
    queue_us: NDArray[np.int64]
    compute_us: NDArray[np.int64]
    window_s: NDArray[np.float64]
    dropped: int
    in_flight: float
    client_cpu_s: float
    client_wait_s: float
    processes: int
    texts: dict[str, int]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "texts"}
        np.savez_compressed(path, texts=np.array(list(self.texts), np.str_), counts=list(self.texts.values()), **columns)

    @staticmethod
    def load(path: Path) -> "Samples":
        with np.load(path, allow_pickle=False) as columns:
            found = {field.name: columns[field.name] for field in fields(Samples) if field.name != "texts"}
            texts = dict(zip(columns["texts"].tolist(), columns["counts"].tolist(), strict=True))
        for name in ("dropped", "in_flight", "client_cpu_s", "client_wait_s", "processes"):
            found[name] = found[name].item()
        return Samples(texts=texts, **found)


def merged(parts: Sequence[Samples]) -> Samples:
    """The samples of several processes that sent one load together: what all of them measured is the window."""
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _TYPES}
    texts: Counter[str] = Counter()
    for part in parts:
        texts.update(part.texts)
    return Samples(
        **columns,
        window_s=np.array([max(part.window_s[0] for part in parts), min(part.window_s[1] for part in parts)]),
        dropped=sum(part.dropped for part in parts),
        in_flight=sum(part.in_flight for part in parts),
        client_cpu_s=sum(part.client_cpu_s for part in parts),
        client_wait_s=sum(part.client_wait_s for part in parts),
        processes=sum(part.processes for part in parts),
        texts=dict(texts.most_common(MAX_TEXTS)),
    )


class Recorder:
    """Collects the samples of this process. The measured window lasts from `start`, after the warm-up, to `stop`."""

    def __init__(self, target_ms: float | None = None) -> None:
        self.misses = 0
        self._target_s = float("inf") if target_ms is None else target_ms / 1e3
        self._samples: list[Sample] = []
        self._texts: Counter[str] = Counter()
        self._dropped = 0
        self._window_s = (float("inf"), float("inf"))
        self._began = self._ended = _Use(0.0, 0.0, 0.0)
        self._in_flight, self._area_s, self._changed_s = 0, 0.0, time.perf_counter()

    @property
    def in_flight(self) -> int:
        """Requests in flight now."""
        return self._in_flight

    def start(self) -> None:
        """Begins the window."""
        self._window_s = (time.perf_counter(), float("inf"))
        self._began = self._use()

    def stop(self) -> None:
        """Ends the window; requests that began within it may still finish and be added."""
        if self._window_s[1] == float("inf"):
            self._window_s = (self._window_s[0], time.perf_counter())
            self._ended = self._use()

    def counts(self, at_s: float) -> bool:
        """Whether this moment is within the window."""
        begin_s, end_s = self._window_s
        return begin_s <= at_s < end_s

    def sent(self) -> None:
        """Counts a request as in flight."""
        self._count(+1)

    def add(self, sample: Sample, text: str = "") -> None:
        """Adds a request that is no longer in flight, with the text of its failure."""
        self._count(-1)
        self._samples.append(sample)
        if self.counts(sample.due_s):
            self.misses += sample.code != OK or sample.ended_s - sample.due_s > self._target_s
            if sample.code != OK:
                self._failed(f"{sample.code}: {text}"[:MAX_TEXT])

    def drop(self, due_s: float) -> None:
        """Counts an arrival that wasn't sent."""
        if self.counts(due_s):
            self._dropped += 1
            self.misses += 1

    def samples(self) -> Samples:
        """All samples so far, including the warm-up's: a request that began in the warm-up may end in the window."""
        columns: list[Any] = list(zip(*self._samples, strict=True)) or [()] * len(Sample._fields)
        lasted_s = self._window_s[1] - self._window_s[0]
        measured = self._window_s[1] < float("inf") and lasted_s > 0
        return Samples(
            **{name: np.array(column, _TYPES[name]) for name, column in zip(Sample._fields, columns, strict=True)},
            window_s=np.array(self._window_s),
            dropped=self._dropped,
            in_flight=(self._ended.in_flight_s - self._began.in_flight_s) / lasted_s if measured else 0.0,
            client_cpu_s=self._ended.cpu_s - self._began.cpu_s if measured else 0.0,
            client_wait_s=max(0.0, self._ended.wait_s - self._began.wait_s) if measured else 0.0,
            processes=1,
            texts=dict(self._texts),
        )

    def _failed(self, text: str) -> None:
        if text in self._texts or len(self._texts) < MAX_TEXTS:
            self._texts[text] += 1

    def _count(self, change: int) -> None:
        now_s = time.perf_counter()
        self._area_s += self._in_flight * (now_s - self._changed_s)
        self._in_flight, self._changed_s = self._in_flight + change, now_s

    def _use(self) -> "_Use":
        self._count(0)
        return _Use(time.process_time(), waited_s(), self._area_s)


class _Use(NamedTuple):
    """What this process has used so far, in seconds: processor time, time waiting for one, and requests x time in flight."""

    cpu_s: float
    wait_s: float
    in_flight_s: float


def waited_s(process: str = "self") -> float:
    """For how long threads of a process have waited for a processor in total; 0 if the system doesn't say."""
    waited_ns = 0
    for task in Path(f"/proc/{process}/task").glob("*/schedstat"):
        try:
            waited_ns += int(task.read_text().split()[1])
        except (OSError, IndexError, ValueError):  # the thread has just ended
            continue
    return waited_ns / 1e9
