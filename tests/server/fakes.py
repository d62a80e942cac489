"""Stand-ins for what is slow or hard to steer: a session that adds numbers, a clock that tests set."""

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
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
from turnout_server.devices.sessions import Session
from turnout_server.models.deployments import Deployment
from turnout_server.models.loading import ModelVersion
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
    """y = a + b, rows of two numbers; runs are recorded, and can be made to wait or to fail.

    Attributes:
        trims: the number of runs before each time that it was trimmed.
        gate: a run waits for it.
        trouble: called with a run's inputs before it is answered; may raise.
    """

    inputs: tuple[TensorSpec, ...] = (spec("a", -1, 2), spec("b", -1, 2))
    outputs: tuple[TensorSpec, ...] = (spec("y", -1, 2),)
    placement: Mapping[str, int] = field(default_factory=dict)
    graphs: Mapping[int, str] = field(default_factory=dict)
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

    def trim(self) -> None:
        self.trims.append(len(self.runs))


def profile(measured_us: Mapping[int, float]) -> Profile:
    """What runs of so many rows take; each was measured a few times."""
    made = Profile()
    for rows, service_us in measured_us.items():
        made.measure(rows, [service_us] * 5)
    return made


def deployment(session: Session | None = None, name: str = "adds", device: str = "cpu", **options: Any) -> Deployment:
    """A model on a device, where up to eight rows may run together."""
    return Deployment((name, "1", device), session or AddingSession(), **({"max_rows": 8} | options))


@dataclass(eq=False)
class FakeTenant:
    """A model whose runs take `run_us`, and `row_us` more for each row; None if that was never measured."""

    account: Account = field(default_factory=Account)
    weight: float = 1.0
    instances: int = 0
    preferred_rows: tuple[int, ...] = ()
    max_delay_s: float = 0.0
    target_s: float | None = None
    effective_max_batch: int = 8
    run_us: float | None = None
    row_us: float = 0.0

    def predict_us(self, rows: int) -> float | None:
        return None if self.run_us is None else self.run_us + self.row_us * rows

    def likely_us(self, rows: int) -> float | None:
        return self.predict_us(rows)


@dataclass(eq=False)
class FakeRequest:
    """A waiting request; `number` tells it from others like it."""

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
    """A call of the transport's: keeps what was sent, how it ended, and what to do when its client goes away."""

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
    """The engine of a device of that name, as well as its `trouble` lets it be."""

    def __init__(self, name: str) -> None:
        self.device = Device(name, kind_of(name), "FakeExecutionProvider")
        self.restarts = 0
        self.trouble: ServingError | None = None

    def open(self, path: Path, options: RuntimeOptions) -> Session:
        return AddingSession()

    def unavailable_reason(self) -> ServingError | None:
        return self.trouble

    def stop(self) -> None:
        """There is nothing to stop."""


class FakeProfiler(Profiler):
    """Measures nothing, and remembers what it was told of."""

    def __init__(self) -> None:
        self.added: list[ModelVersion] = []

    def add(self, model: ModelVersion) -> None:
        self.added.append(model)

    def settle(self) -> None:
        """There is nothing to wait for."""


@dataclass
class FakeObserver:
    """What a repository tells, passed on to two functions."""

    on_change: Callable[[], None] = lambda: None
    on_wanted: Callable[[str], None] = lambda name: None

    def changed(self) -> None:
        self.on_change()

    def loaded(self, version: ModelVersion) -> None:
        """Of no interest."""

    def settling(self) -> None:
        """Of no interest."""

    def wanted(self, name: str) -> None:
        self.on_wanted(name)
