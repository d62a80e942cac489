"""Fakes for what is slow or hard to control: a session that adds numbers, a clock that tests set."""

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from turnout_server.core.datatypes import DATATYPES
from turnout_server.core.device_names import kind_of
from turnout_server.core.errors import ServingError
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.core.signatures import TensorSpec
from turnout_server.devices.device import Device
from turnout_server.devices.sessions import Run, Session, staged_in_place
from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.profiler import Profiler
from turnout_server.scheduling.entries import Account
from turnout_server.scheduling.profiles import Profile
from turnout_server.transport.base import OK, Status


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def spec(name: str, *shape: int, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name, DATATYPES[datatype], shape)


@dataclass(eq=False)
class AddingSession:
    """y = a + b, all float32 of shape (rows, 2). Runs are recorded, and tests can make them wait or fail.

    Attributes:
        runs: the rows of each run.
        trims: the number of runs before each call of `trim`.
        gate: runs wait until it is set.
        started: released at the start of each run.
        trouble: called with the inputs of each run; may raise.
    """

    inputs: tuple[TensorSpec, ...] = (spec("a", -1, 2), spec("b", -1, 2))
    outputs: tuple[TensorSpec, ...] = (spec("y", -1, 2),)
    placement: Mapping[str, int] = field(default_factory=dict)
    buckets: Sequence[int] = ()
    notes: Sequence[str] = ()
    runs: list[int] = field(default_factory=list)
    trims: list[int] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    trouble: Callable[[Mapping[str, np.ndarray]], None] = lambda inputs: None

    def __post_init__(self) -> None:
        self.gate.set()

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        self.runs.append(len(inputs["a"]))
        self.started.release()
        assert self.gate.wait(timeout=10)
        self.trouble(inputs)
        return [inputs["a"] + inputs["b"] for _ in outputs]

    def stage(self, requests: Sequence[Mapping[str, np.ndarray]], outputs: Sequence[str]) -> AbstractContextManager[Run]:
        return staged_in_place(self, requests, outputs)

    def trim(self) -> None:
        self.trims.append(len(self.runs))


def profile(measured_us: Mapping[int, float]) -> Profile:
    """A profile with these service times by rows, each measured five times."""
    made = Profile()
    for rows, service_us in measured_us.items():
        made.measure(rows, [service_us] * 5)
    return made


def deployment(session: Session | None = None, name: str = "adds", device: str = "cpu", **options: Any) -> Deployment:
    """A model on a device, with up to eight rows per batch."""
    return Deployment((name, "1", device), session or AddingSession(), **({"max_rows": 8} | options))


@dataclass(eq=False)
class FakeTenant:
    """A model whose runs take `run_us` plus `row_us` for each row; `run_us` is None if it was never measured.

    Its own `per_core` may be another such: how it runs on one core.
    """

    account: Account = field(default_factory=Account)
    device: str = "cpu"
    weight: float = 1.0
    instances: int = 0
    preferred_rows: tuple[int, ...] = ()
    max_delay_s: float = 0.0
    target_s: float | None = None
    effective_max_batch: int = 8
    run_us: float | None = None
    row_us: float = 0.0
    per_core: "FakeTenant | None" = None
    least_requests: int = 2
    max_rows: int = 8

    def predict_us(self, rows: int) -> float | None:
        return None if self.run_us is None else self.run_us + self.row_us * rows

    def likely_us(self, rows: int) -> float | None:
        return self.predict_us(rows)


@dataclass(eq=False)
class FakeRequest:
    """A waiting request, identified by `number`."""

    tenant: FakeTenant
    number: int = 0
    batch_key: Hashable = "k"
    rows: int = 1
    priority: int = 2
    start_by_s: float | None = None
    deadline_s: float | None = None
    enqueued_s: float = 0.0
    cancelled: bool = False


class FakeCall:
    """A call of the transport: records its messages, its final status, and the callbacks for its cancellation."""

    def __init__(self, metadata: Mapping[str, str] | None = None) -> None:
        self.metadata: Mapping[str, str] = metadata or {}
        self.deadline_s: float | None = None
        self.runs_inline = False
        self.sent: list[bytes] = []
        self.ended: list[Status] = []
        self.on_cancelled: list[Callable[[], None]] = []

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self.on_cancelled.append(callback)

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def finish(self, status: Status = OK) -> None:
        self.ended.append(status)


class FakeEngine:
    """The engine of a device of that name; unavailable while `trouble` is set."""

    def __init__(self, name: str) -> None:
        self.device = Device(name, kind_of(name), "FakeExecutionProvider")
        self.restarts = 0
        self.trouble: ServingError | None = None

    def open(self, path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> Session:
        return AddingSession()

    def unavailable_reason(self) -> ServingError | None:
        return self.trouble

    def await_ready(self, timeout_s: float) -> None:
        """Does nothing."""

    def stop(self) -> None:
        """Does nothing."""


class FakeProfiler(Profiler):
    """Measures nothing, and records the models that it was given."""

    def __init__(self) -> None:
        self.added: list[ModelVersion] = []

    def add(self, model: ModelVersion) -> None:
        self.added.append(model)

    def settle(self) -> None:
        """Returns at once."""


@dataclass
class FakeObserver:
    """Passes two of a repository's events on to functions."""

    on_change: Callable[[], None] = lambda: None
    on_wanted: Callable[[str], None] = lambda name: None

    def changed(self) -> None:
        self.on_change()

    def loaded(self, version: ModelVersion) -> None:
        """Ignored."""

    def settling(self) -> None:
        """Ignored."""

    def wanted(self, name: str) -> None:
        self.on_wanted(name)
