"""Samples, cells and results made up for tests, by the code that makes them of real ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from turnout_loadtests.judging.cells import Cell, Surroundings, summarise
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.judging.validity import Floor, Setting, judged
from turnout_loadtests.ledger import Ledger
from turnout_loadtests.measuring.devices import DeviceFacts
from turnout_loadtests.measuring.machine import MachineUse
from turnout_loadtests.plan import PROFILES, Request
from turnout_loadtests.probing import Probed
from turnout_loadtests.reporting.results import Gap, Results
from turnout_loadtests.sending.load import OPEN, Load
from turnout_loadtests.sending.samples import OK, Samples
from turnout_proto import inference_pb2 as pb

QUIET = MachineUse(busy_percent=60.0, other_work_percent=1.0, steal_percent=0.0, pressure_percent=5.0)


@dataclass
class Behaviour:
    """How a made-up device answers.

    Attributes:
        ms: mean time of a request; it scatters by `scatter`, and each round's mean by `drift`.
        slow_share, slow_ms: some requests take this long instead.
        client_ms: part of the time that the client takes.
        fails_share: the share of requests that fail.
        fails_at: the batches of which they do; empty for all.
        queues: whether it answers one after another, so that requests of a load at a rate wait, and some aren't sent.
    """

    ms: float = 10.0
    scatter: float = 0.03
    drift: float = 0.0
    slow_share: float = 0.0
    slow_ms: float = 0.0
    client_ms: float = 0.3
    fails_share: float = 0.0
    fails_at: tuple[int, ...] = ()
    queues: bool = False
    answers_as: str = ""
    client_cpu: float = 0.1
    machine: MachineUse = field(default_factory=lambda: QUIET)
    precision: str = "fp32"


def load(**changes: Any) -> Load:
    """A closed load of one request at a time."""
    return replace(Load("127.0.0.1:1", "resnet50", "cpu", duration_s=4.0), **changes)


def samples(given: Load, device: Behaviour, chance: np.random.Generator) -> Samples:
    """What a device of this behaviour would answer to a load: requests one after another, in each of those in flight."""
    mean_ms = device.ms * float(np.exp(chance.normal(0, device.drift)))
    begin_s, end_s, dropped = 10.0, 10.0 + given.duration_s, 0
    if given.arrival == OPEN:
        due_s = np.cumsum(chance.exponential(1 / given.rate_per_s, int(given.rate_per_s * (given.duration_s + 1) * 1.5))) + 9.5
        due_s = due_s[due_s < end_s]
        took_s = _times_s(device, mean_ms, len(due_s), chance)
        if device.queues:
            due_s, took_s, lost_s = _queued(due_s, took_s, given.in_flight)
            dropped = int(((lost_s >= begin_s) & (lost_s < end_s)).sum())
    else:
        dues, tooks = [], []
        for place in range(given.in_flight):
            each_s = _times_s(device, mean_ms, int(1.3e3 * (given.duration_s + 1) / mean_ms) + 5, chance)
            starts_s = 9.5 + 0.01 * place / given.in_flight + np.concatenate([[0.0], np.cumsum(each_s)[:-1]])
            kept = starts_s < end_s
            dues.append(starts_s[kept])
            tooks.append(each_s[kept])
        due_s, took_s = np.concatenate(dues), np.concatenate(tooks)
    count = len(due_s)
    fails = not device.fails_at or given.batch in device.fails_at
    failed = chance.random(count) < (device.fails_share if fails else 0.0)
    compute_us = np.maximum(1, (took_s * 1e6 - device.client_ms * 1e3)).astype(np.int64)
    overlap = np.clip(np.minimum(due_s + took_s, end_s) - np.maximum(due_s, begin_s), 0, None)
    return Samples(
        due_s=due_s,
        began_s=due_s,
        ended_s=due_s + took_s,
        code=np.where(failed, "RESOURCE_EXHAUSTED", OK),
        device=np.where(failed, "", device.answers_as or given.device),
        precision=np.where(failed, "", device.precision),
        batch_size=np.full(count, given.batch),
        decode_us=np.full(count, 10),
        queue_us=np.full(count, 50),
        compute_us=compute_us,
        window_s=np.array([begin_s, end_s]),
        dropped=dropped,
        in_flight=float(overlap.sum() / given.duration_s),
        client_cpu_s=device.client_cpu * given.duration_s,
        client_wait_s=0.0,
        processes=1,
        texts={"RESOURCE_EXHAUSTED: the queue is full": int(failed.sum())} if failed.any() else {},
    )


def cell(
    behaviour: Behaviour | None = None, *, seed: int = 1, number: int = 1, floor: Floor | None = None, **changes: Any
) -> Cell:
    """A judged cell of a device that behaves like this, under a load with these changes."""
    return entry(load(**changes), behaviour or Behaviour(), number, np.random.default_rng(seed), floor)[0]


def entry(
    given: Load, behaviour: Behaviour, number: int, chance: np.random.Generator, floor: Floor | None = None
) -> tuple[Cell, Samples]:
    """A judged cell and its samples."""
    made = samples(given, behaviour, chance)
    measured = summarise(
        given, made, Surroundings(behaviour.machine), "locust -f locustfile.py", number, "2026-01-02T03:04:05.000"
    )
    return judged(measured, Setting(floor, cores=2)), made


@dataclass
class World:
    """A comparison that was made up: what each device does, and what is known of it."""

    devices: dict[str, Behaviour]
    facts: dict[str, DeviceFacts] = field(default_factory=dict)
    models: Sequence[str] = ("resnet50",)
    rounds: int = 6
    batches: Sequence[int] = (1,)
    loads_per_s: tuple[float, ...] = ()
    in_flight: int = 2
    target_ms: float | None = None
    capacities: Sequence[Capacity] = ()
    gaps: Sequence[Gap] = ()
    seed: int = 1
    window_s: float = 4.0
    in_flight_at_rate: int = 64

    def ledger(self) -> Ledger:
        """The comparison with all its cells."""
        names = tuple(self.devices)
        request = Request(
            tuple(self.models),
            names,
            PROFILES["standard"],
            target_ms=self.target_ms,
            loads_per_s=self.loads_per_s,
        )
        ledger = Ledger(request, "turnout-loadtest compare resnet50", 1, True, False, lambda text: None, lambda results: None)
        ledger.server_name = "turnout 0.1.0"
        chance = np.random.default_rng(self.seed)
        for model in self.models:
            ledger.models[model] = {
                name: Probed(self.facts.get(name, DeviceFacts(name, name, "CPUExecutionProvider", 2, 1)), {1: 0.01})
                for name in names
            }
            for number in range(1, self.rounds + 1):
                for name in names if number % 2 else reversed(names):
                    for given in self._loads(model, name):
                        ledger.enter(*entry(given, self.devices[name], number, chance))
        for capacity in self.capacities:
            ledger.carries(capacity)
        for gap in self.gaps:
            ledger.lacks(gap)
        return ledger

    def results(self) -> Results:
        """Its results."""
        return self.ledger().results(complete=True)

    def _loads(self, model: str, device: str) -> list[Load]:
        usual = {"model": model, "device": device, "duration_s": self.window_s, "target_ms": self.target_ms}
        return [
            load(**usual),
            *(load(batch=batch, in_flight=self.in_flight, fills=True, **usual) for batch in self.batches),
            *(load(arrival=OPEN, rate_per_s=rate, in_flight=self.in_flight_at_rate, **usual) for rate in self.loads_per_s),
        ]


def _times_s(device: Behaviour, mean_ms: float, count: int, chance: np.random.Generator) -> NDArray[np.float64]:
    times_ms = mean_ms * np.exp(chance.normal(0, device.scatter, count))
    slow = chance.random(count) < device.slow_share
    times_ms[slow] = device.slow_ms
    found: NDArray[np.float64] = times_ms / 1e3
    return found


def _queued(
    due_s: NDArray[np.float64], took_s: NDArray[np.float64], most: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Requests that are answered one after another: when they were due, how long they took, and when others weren't sent."""
    ends_s: list[float] = []
    sent_s, lost_s = [], []
    for due, took in zip(due_s.tolist(), took_s.tolist(), strict=True):
        if len(ends_s) >= most and ends_s[-most] > due:
            lost_s.append(due)
            continue
        ends_s.append(max(due, ends_s[-1] if ends_s else 0.0) + took)
        sent_s.append(due)
    return np.array(sent_s), np.array(ends_s) - np.array(sent_s), np.array(lost_s)


def add_metadata() -> pb.ModelMetadataResponse:
    """A model that takes x (batch, 4) float32."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name="add",
        versions=["1"],
        inputs=[tensor(name="x", datatype="FP32", shape=[-1, 4])],
        outputs=[tensor(name="y", datatype="FP32", shape=[-1, 4])],
    )
