"""Compares devices: probes what each model can run on, measures one cell after another, and keeps the results as they come."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from turnout_loadtests import environment
from turnout_loadtests.client import QUESTION_TIMEOUT_S, connect, devices_of, model_metadata, reason, server_name
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.judging.cells import INVALID, Cell, summarise
from turnout_loadtests.judging.search import (
    Capacity,
    Trial,
    capacity_of,
    kept,
    misses_allowed,
    next_rate,
    trial_length_s,
)
from turnout_loadtests.judging.summaries import Key, Summary, key_of, summarised
from turnout_loadtests.judging.validity import Floor, Setting, judged
from turnout_loadtests.measuring.devices import DeviceFacts, facts_of, with_options
from turnout_loadtests.measuring.machine import usable_cores
from turnout_loadtests.measuring.observer import Observer
from turnout_loadtests.measuring.server import ServerAddress
from turnout_loadtests.plan import Experiment, Request, estimate_s, experiments, filling, in_turn, next_in_flight, window_s
from turnout_loadtests.quantities import PowerModel
from turnout_loadtests.reporting.conclusions import concluded
from turnout_loadtests.reporting.results import (
    FAILED,
    NOT_REACHED,
    SCHEMA_VERSION,
    UNAVAILABLE,
    Gap,
    Machine,
    Results,
)
from turnout_loadtests.sending.connection import Connection
from turnout_loadtests.sending.load import CLOSED, OPEN, Load, locust_command
from turnout_loadtests.sending.samples import OK, Samples
from turnout_loadtests.sending.senders import SenderDied, Senders

FLOOR_S = 2.0
FLOOR_IN_FLIGHT = 16  # for each sending process
FIRST_TIMEOUT_S = 60.0  # the first request may create a session, or have kernels compiled
#: A server that answers nothing for this long, while most requests fail, counts as gone.
DEAD_AFTER_S = 5.0
GONE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNFINISHED")
WRONG_REQUEST = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)
REPEATABLE = ("disturbed", "not steady")


class ServerDied(LoadTestError):
    """The server no longer answers."""


@dataclass(frozen=True)
class Progress:
    """Callbacks for progress, called from the thread that runs the comparison.

    Attributes:
        said: a line for the user.
        begun: a step begins; its description and how long it takes.
        tick: several times a second.
        written: the results so far.
    """

    said: Callable[[str], None] = lambda text: None
    begun: Callable[[str, float], None] = lambda text, expected_s: None
    tick: Callable[[], None] = lambda: None
    planned: Callable[[Sequence[str], float, Sequence[str]], None] = lambda lines, total_s, commands: None
    written: Callable[[Results], None] = lambda results: None


@dataclass(frozen=True)
class Options:
    """How a comparison measures, beside what.

    Attributes:
        settings: the tables of devices in the server's settings file.
        server_cores: cores that the server may use by itself; 0 if they aren't known.
        sender_cores: cores that the senders have for themselves; empty if they share them.
    """

    command: str
    processes: int = 1
    prices: dict[str, float] = field(default_factory=dict)
    cpu_power: PowerModel | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    server_cores: int = 0
    sender_cores: tuple[int, ...] = ()


@dataclass
class _Probed:
    """What probing showed of a model on a device: how long a request of each batch takes alone, in seconds."""

    facts: DeviceFacts
    latency_s: dict[int, float] = field(default_factory=dict)


class Run:
    """One comparison, from the first question to the results."""

    def __init__(self, request: Request, options: Options, server: ServerAddress, progress: Progress) -> None:
        self._request, self._options, self._server, self._progress = request, options, server, progress
        self._stub: Stub = connect(server.host)
        self._connection = Connection(server.host)
        self._began_s, self._started = time.monotonic(), datetime.now(UTC)
        self._machine = environment.describe()
        self._server_name = ""
        self._floor: Floor | None = None
        self._idle_w: dict[str, float] = {}
        self._gaps: list[Gap] = []
        self._cells: list[Cell] = []
        self._times: dict[Key, dict[int, NDArray[Any]]] = {}
        self._capacities: list[Capacity] = []
        self._models: dict[str, dict[str, _Probed]] = {}
        self._devices: frozenset[str] = frozenset()
        self._senders: Senders | None = None
        self._observer = Observer(server, lambda: self._senders.pids if self._senders else [])

    def measure(self) -> bool:
        """Measures everything, one after another; whether it came to its end. What was measured stays in any case.

        Raises:
            KeyboardInterrupt: the user ended it.
            LoadTestError: nothing can be measured at all.
        """
        self._server_name = server_name(self._stub)
        try:
            self._senders = self._new_senders()
            self._probe_all()
            if not any(self._models.values()):
                return True
            self._announce()
            self._measure_floor()
            self._measure_idle()
            for model, devices in self._models.items():
                self._measure_model(model, devices)
        except ServerDied as death:
            self._progress.said(f"the server died: {death}")
            self._note_unreached(f"the server died: {death}")
            return False
        except KeyboardInterrupt:
            self._note_unreached("interrupted")
            raise
        finally:
            if self._senders:
                self._senders.close()
        return True

    def results(self, *, complete: bool) -> Results:
        """What is known by now."""
        request = self._request
        machine = Machine(
            number=1,
            command=self._options.command,
            started=self._started.isoformat(timespec="seconds"),
            took_s=time.monotonic() - self._began_s,
            server=self._server_name,
            local=self._server.is_local,
            pinned=bool(self._options.sender_cores),
            processes=self._options.processes,
            environment=self._machine,
            floor=self._floor,
            idle_w=self._idle_w,
        )
        return concluded(
            Results(
                schema_version=SCHEMA_VERSION,
                turnout_version=self._machine.versions.get("turnout", "unknown"),
                complete=complete,
                profile=request.profile.name,
                says_not=request.profile.says_not,
                target_ms=request.target_ms,
                loads_per_s=list(request.loads_per_s),
                models=list(request.models),
                devices=list(request.devices),
                machines=[machine],
                facts={model: [probed.facts for probed in devices.values()] for model, devices in self._models.items()},
                gaps=list(self._gaps),
                cells=list(self._cells),
                summaries=self._summaries(),
                capacities=list(self._capacities),
                comparisons=[],
                verdicts=[],
            )
        )

    # --- before the measurement

    def _new_senders(self) -> Senders:
        return Senders(self._options.processes, self._options.sender_cores)

    def _probe_all(self) -> None:
        self._progress.begun("asking the server", 0.0)
        for model in self._request.models:
            self._models[model] = {}
            try:
                model_metadata(self._stub, model)
            except LoadTestError as error:
                self._gap(Gap(model, "", 0, FAILED, str(error)))
                continue
            self._devices |= frozenset(devices_of(self._stub, model))
            for device in self._request.devices:
                self._probe(model, device)

    def _probe(self, model: str, device: str) -> None:
        """Tries each batch on a device with two requests; the second's time is what the plan expects."""
        facts = facts_of(
            device, model, self._stub, self._server.metrics, self._options.settings, self._options.server_cores or None
        )
        probed = _Probed(with_options(facts, self._options.prices, self._options.cpu_power))
        for batch in self._request.rows:
            self._progress.tick()
            load = self._load(model, device, Experiment(batch), in_flight=1)
            try:
                _, (first, *others) = self._connection.requests(load, device)
            except LoadTestError as error:
                self._gap(Gap(model, device, batch, FAILED, str(error)))
                continue
            latency_s, failure = self._ask([first, *others][:2])
            if failure is None:
                probed.latency_s[batch] = latency_s
                continue
            if failure.code() == grpc.StatusCode.FAILED_PRECONDITION:
                text = str(failure.details()).removeprefix(f"device '{device}' is not available: ")
                self._gap(Gap(model, device, 0, UNAVAILABLE, text))
                return
            if failure.code() not in WRONG_REQUEST and not self._alive():
                raise ServerDied(self._why_dead(reason(failure)))
            self._gap(Gap(model, device, batch, FAILED, reason(failure)))
        if probed.latency_s:
            self._models[model][device] = probed

    def _ask(self, requests: Sequence[bytes]) -> tuple[float, grpc.RpcError | None]:
        """Sends requests one after another; the last one's time, or the failure of one. A busy device is no failure."""
        latency_s = 0.0
        for request in requests:
            began_s = time.perf_counter()
            try:
                self._connection.infer(request, timeout=FIRST_TIMEOUT_S)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    return 0.0, error
            latency_s = time.perf_counter() - began_s
        return latency_s, None

    def _announce(self) -> None:
        request = self._request
        lines, commands = [], []
        for model, devices in self._models.items():
            for probed in devices.values():
                batches = ", ".join(f"{batch}: {latency_s * 1e3:.3g} ms" for batch, latency_s in probed.latency_s.items())
                lines.append(f"{model} on {probed.facts.described([])}; one request by batch: {batches}")
            for device in devices:
                commands += [
                    locust_command(self._load(model, device, experiment, self._request.in_flight or 4), self._options.processes)
                    for experiment in experiments(request)
                ]
        total_s = estimate_s(request, [len(devices) for devices in self._models.values()])
        self._progress.planned(lines, total_s, commands)

    def _measure_floor(self) -> None:
        """Calls without inference: what no device can be faster than, as seen from here."""
        self._progress.begun("floor: calls without inference", 2 * FLOOR_S + 1)
        found = []
        for in_flight in (1, FLOOR_IN_FLIGHT * self._options.processes):
            load = Load(
                self._server.host, "", "", in_flight=in_flight, warm_up_s=0.5, duration_s=FLOOR_S, floor=True,
                timeout_s=self._request.timeout_s,
            )  # fmt: skip
            cell, _ = self._apply(load, DeviceFacts(""), 0)
            found.append(cell)
        one, many = found
        if one.service.p50_ms is not None and many.requests_per_s is not None and not one.failures:
            self._floor = Floor(one.service.p50_ms, many.requests_per_s)

    def _measure_idle(self) -> None:
        """The power of GPUs and CPU without load, if the profile measures energy and there is a source."""
        idle_s = self._request.profile.idle_s
        if idle_s:
            self._progress.begun("power without load", idle_s)
            for name, found in zip(("gpu", "cpu"), self._observer.idle(idle_s, self._progress.tick), strict=True):
                if (watts := found.watts(idle_s)) is not None:
                    self._idle_w[name] = watts

    # --- the measurement

    def _measure_model(self, model: str, devices: dict[str, _Probed]) -> None:
        """Measures one model; what goes wrong with it alone is a gap, and the next model is measured."""
        try:
            self._measure_devices(model, devices)
        except ServerDied:
            raise
        except LoadTestError as error:
            self._gap(Gap(model, "", 0, FAILED, str(error)))

    def _measure_devices(self, model: str, devices: dict[str, _Probed]) -> None:
        filled = {
            (device, batch): self._fill(model, device, batch)
            for device, probed in devices.items()
            for batch in probed.latency_s
        }
        for experiment in experiments(self._request):
            able = [device for device, probed in devices.items() if experiment.batch in probed.latency_s]
            self._rounds(model, experiment, able, filled)
        if self._request.profile.searches and self._request.target_ms is not None:
            for device in devices:
                self._search(model, device, self._request.target_ms)

    def _fill(self, model: str, device: str, batch: int) -> int:
        """How many requests in flight fill a device: twice as many each time, until that brings no more."""
        if self._request.in_flight:
            return self._request.in_flight
        rates: list[tuple[int, float]] = []
        probe_s, latency_s = self._request.profile.probe_s, self._models[model][device].latency_s[batch]
        while (in_flight := next_in_flight(rates, batch)) is not None:
            self._progress.begun(f"{model} on {device}, batch {batch}: {in_flight} requests in flight", probe_s)
            load = self._load(model, device, Experiment(batch), in_flight)
            load = replace(load, warm_up_s=0.3, duration_s=min(self._request.profile.longest_s, max(probe_s, 6 * latency_s)))
            cell, samples = self._apply(load, self._models[model][device].facts, 0)
            ended = (samples.code == OK) & (samples.ended_s >= samples.window_s[0]) & (samples.ended_s < samples.window_s[1])
            rates.append((in_flight, float(ended.sum()) / cell.duration_s if cell.duration_s else 0.0))
        return filling(rates)

    def _rounds(self, model: str, experiment: Experiment, devices: Sequence[str], filled: dict[tuple[str, int], int]) -> None:
        """All rounds of an experiment, devices in turn; more of them if some were disturbed."""
        profile = self._request.profile
        rounds = profile.rounds if len(devices) > 1 else max(2, profile.rounds // 2)
        done = 0
        for limit in (rounds, rounds + profile.rounds // 2):
            for number, device in in_turn(devices, limit):
                if number > done:
                    self._round(model, device, experiment, filled[device, experiment.batch], number)
            done = limit
            if not any(
                cell.state == INVALID and cell.reasons[0].startswith(REPEATABLE) and cell.model == model
                for cell in self._cells[-len(devices) * rounds :]
            ):
                break

    def _round(self, model: str, device: str, experiment: Experiment, in_flight: int, number: int) -> None:
        probed = self._models[model][device]
        load = self._load(model, device, experiment, in_flight)
        count = in_flight if not experiment.single else 1
        duration_s = window_s(self._request.profile, count, probed.latency_s[experiment.batch] * count)
        if experiment.rate_per_s:
            duration_s = max(self._request.profile.window_s, min(self._request.profile.longest_s, 60 / experiment.rate_per_s))
        load = replace(load, duration_s=duration_s)
        what = f"{load.scenario}, batch {load.batch}, round {number}"
        self._progress.begun(f"{model} on {device}: {what}", load.warm_up_s + duration_s)
        cell, samples = self._apply(load, probed.facts, number)
        self._keep(cell, samples)

    def _search(self, model: str, device: str, target_ms: float) -> None:
        """Looks for the greatest rate that keeps the target."""
        probed, profile = self._models[model][device], self._request.profile
        batch = min(probed.latency_s)
        start_per_s = max(0.1, 0.25 / max(1e-4, probed.latency_s[batch]))
        trials: list[Trial] = []
        while (rate := next_rate(trials, start_per_s)) is not None:
            length_s = trial_length_s(rate, profile.trial_s, profile.longest_trial_s)
            if length_s is None:
                trials.append(Trial(rate, None, f"a p99 at {rate:.3g}/s takes longer than {profile.longest_trial_s:g} s"))
                continue
            load = replace(
                self._load(model, device, Experiment(batch, rate_per_s=rate), 1),
                duration_s=length_s,
                target_ms=target_ms,
                misses_allowed=misses_allowed(rate, length_s),
            )
            self._progress.begun(f"{model} on {device}: {rate:.3g} requests/s within {target_ms:g} ms?", length_s)
            cell, samples = self._apply(load, probed.facts, 0)
            self._keep(cell, samples)
            trials.append(kept(cell, target_ms))
        self._capacities.append(capacity_of(model, device, batch, target_ms, trials))
        self._write()

    def _apply(self, load: Load, facts: DeviceFacts, number: int) -> tuple[Cell, Samples]:
        """Applies a load, and returns its cell and its samples.

        Raises:
            ServerDied: most of it failed, and the server no longer answers.
        """
        assert self._senders is not None
        begun = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            self._senders.prepare(load, self._progress.tick)
            watches = []
            samples = self._senders.send(load, lambda b, e: watches.append(self._observer.watch(b, e)), self._progress.tick)
        except SenderDied as death:
            self._progress.said(str(death))
            self._senders.close()
            self._senders = self._new_senders()
            raise
        (watch,) = watches
        watch.stop()
        around = self._observer.surroundings(watch, facts, self._cpu_facts(load.model))
        command = locust_command(load, self._options.processes)
        cell = summarise(load, samples, around, command, number, begun)
        cell = judged(cell, Setting(self._floor, self._shares_cores(facts), usable_cores(), self._devices))
        gone = sum(count for code, count in cell.failures_by_code.items() if code in GONE)
        if 2 * gone >= max(1, cell.requests) and not self._alive():
            if number:
                self._keep(cell, samples)
            raise ServerDied(self._why_dead(next(iter(cell.failure_texts), "no answer")))
        return cell, samples

    def _load(self, model: str, device: str, experiment: Experiment, in_flight: int) -> Load:
        request = self._request
        is_open = experiment.rate_per_s > 0
        return Load(
            host=self._server.host,
            model=model,
            device=device,
            batch=experiment.batch,
            arrival=OPEN if is_open else CLOSED,
            in_flight=_open_limit(experiment.rate_per_s) if is_open else 1 if experiment.single else in_flight,
            rate_per_s=experiment.rate_per_s,
            warm_up_s=request.profile.warm_up_s,
            duration_s=request.profile.window_s,
            timeout_s=request.timeout_s,
            shape=request.shape,
            payload=request.payload,
            repository=request.repository,
            target_ms=request.target_ms,
        )

    # --- what is known

    def _keep(self, cell: Cell, samples: Samples) -> None:
        self._cells.append(cell)
        counted = (samples.due_s >= samples.window_s[0]) & (samples.due_s < samples.window_s[1]) & (samples.code == OK)
        if cell.round:
            times_ms = ((samples.ended_s - samples.due_s)[counted] * 1e3).astype(np.float32)
            self._times.setdefault(key_of(cell), {})[cell.round] = times_ms
        if cell.state == INVALID:
            self._progress.said(
                f"INVALID: {cell.model} on {cell.device}, {cell.scenario}, batch {cell.batch}: {cell.reasons[0]}"
            )
        self._write()

    def _write(self) -> None:
        self._progress.written(self.results(complete=False))

    def _summaries(self) -> list[Summary]:
        groups: dict[Key, list[Cell]] = {}
        for cell in self._cells:
            if cell.round:
                groups.setdefault(key_of(cell), []).append(cell)
        return [summarised(cells, self._times[key]) for key, cells in groups.items()]

    def _note_unreached(self, why: str) -> None:
        """A gap for each experiment on each device that has no cell yet."""
        if not any(self._models.values()):
            self._gaps += [Gap(model, "", 0, NOT_REACHED, why) for model in self._request.models]
            return
        done = {(cell.model, cell.device, cell.batch, cell.scenario) for cell in self._cells}
        for model, devices in self._models.items():
            for device in devices:
                loads = [self._load(model, device, experiment, 2) for experiment in experiments(self._request)]
                for batch in sorted({load.batch for load in loads if (model, device, load.batch, load.scenario) not in done}):
                    self._gap(Gap(model, device, batch, NOT_REACHED, why))

    def _gap(self, gap: Gap) -> None:
        self._gaps.append(gap)
        self._progress.said(f"{gap.what}: {gap.kind}: {gap.reason}")

    def _cpu_facts(self, model: str) -> DeviceFacts | None:
        devices = self._models.get(model, {}).values()
        return next((probed.facts for probed in devices if not probed.facts.is_gpu), None)

    def _shares_cores(self, facts: DeviceFacts) -> bool:
        return self._server.is_local and not facts.is_gpu and not self._options.sender_cores

    def _alive(self) -> bool:
        until_s = time.monotonic() + DEAD_AFTER_S
        while time.monotonic() < until_s:
            try:
                self._stub.ServerLive(pb.ServerLiveRequest(), timeout=QUESTION_TIMEOUT_S)
            except grpc.RpcError:
                time.sleep(0.3)
            else:
                return True
        return False

    def _why_dead(self, text: str) -> str:
        words = self._server.last_words()
        return f"{text}; the end of its log: {words}" if words else text


def _open_limit(rate_per_s: float) -> int:
    """The most requests in flight of an open load: those of two seconds, but enough for bursts at low rates."""
    return max(64, int(2 * rate_per_s))
