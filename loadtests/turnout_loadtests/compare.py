"""Compares devices: probes what each model can run on, measures one cell after another, and keeps the results as they come."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.formatting import three_digits
from turnout_loadtests.judging.agreement import agreement
from turnout_loadtests.judging.cells import INVALID, Cell, summarise
from turnout_loadtests.judging.ladder import WIDEST_MS
from turnout_loadtests.judging.search import Trial, capacity_of, kept, misses_allowed, next_rate, start_rate, trial_length_s
from turnout_loadtests.judging.validity import REPEATABLE, Floor, Setting, judged
from turnout_loadtests.ledger import Ledger
from turnout_loadtests.measuring.devices import DeviceFacts
from turnout_loadtests.measuring.machine import usable_cores
from turnout_loadtests.measuring.observer import Observer, Watch
from turnout_loadtests.measuring.server import ServerAddress
from turnout_loadtests.plan import (
    REPEATED,
    STEP_WARM_UP_S,
    USUALLY_FILLING,
    Experiment,
    Request,
    duration_s,
    estimate_s,
    experiments,
    filling,
    in_turn,
    next_in_flight,
    open_limit,
    rounds_of,
    step_s,
)
from turnout_loadtests.probing import GONE, Probed, Prober, ServerDied, Stated
from turnout_loadtests.reporting.results import FAILED, Gap, Results
from turnout_loadtests.sending.load import CLOSED, OFFLINE, OPEN, SERVER, SINGLE_STREAM, Load, locust_command
from turnout_loadtests.sending.samples import OK, Samples
from turnout_loadtests.sending.senders import SenderDied, Senders

FLOOR_S = 2.0
FLOOR_IN_FLIGHT = 16  # for each sending process


@dataclass(frozen=True)
class Progress:
    """Callbacks for progress, called from the thread that runs the comparison.

    Attributes:
        said: a line for the user.
        begun: a step begins; its description and how long it takes.
        tick: several times a second.
        planned: what will be measured, how long that takes (at least, and with repeated rounds), and the same loads for Locust.
        sampled: a cell with its samples.
        written: the results so far.
    """

    said: Callable[[str], None] = lambda text: None
    begun: Callable[[str, float], None] = lambda text, expected_s: None
    tick: Callable[[], None] = lambda: None
    planned: Callable[[Sequence[str], tuple[float, float], Sequence[str]], None] = lambda lines, takes_s, commands: None
    sampled: Callable[[Cell, Samples], None] = lambda cell, samples: None
    written: Callable[[Results], None] = lambda results: None


@dataclass(frozen=True)
class Options:
    """How a comparison measures, beside what.

    Attributes:
        sender_cores: cores that the senders have for themselves; empty if they share them.
    """

    command: str
    processes: int = 1
    sender_cores: tuple[int, ...] = ()
    stated: Stated = field(default_factory=Stated)


class Run:
    """One comparison, from the first question to the results."""

    def __init__(self, request: Request, options: Options, server: ServerAddress, progress: Progress) -> None:
        self._request, self._options, self._server, self._progress = request, options, server, progress
        self._prober = Prober(server, options.stated, progress.tick)
        self._ledger = Ledger(
            request, options.command, options.processes, server.is_local, bool(options.sender_cores), progress.said,
            progress.written, options.stated.prices,
        )  # fmt: skip
        self._devices: frozenset[str] = frozenset()
        self._senders: Senders | None = None
        self._observer = Observer(server, lambda: self._senders.pids if self._senders else [])

    def results(self, *, complete: bool) -> Results:
        """What is known by now."""
        return self._ledger.results(complete=complete)

    def measure(self) -> bool:
        """Measures everything, one after another; whether it came to its end. What was measured stays in any case.

        Raises:
            KeyboardInterrupt: the user ended it.
            LoadTestError: nothing can be measured at all.
        """
        self._ledger.server_name = self._prober.server_name()
        try:
            self._senders = self._new_senders()
            self._measure_all()
        except ServerDied as death:
            self._note_unreached(f"the server died: {death}")
            return False
        except KeyboardInterrupt:
            self._note_unreached("interrupted")
            raise
        finally:
            if self._senders:
                self._senders.close()
        return True

    def _measure_all(self) -> None:
        self._progress.begun("asking the server", 0.0)
        for model in self._request.models:
            self._ledger.models[model] = self._probe(model)
            self._compare_outputs(model, list(self._ledger.models[model]))
        if not any(self._ledger.models.values()):
            return
        self._announce()
        self._measure_floor()
        self._measure_idle()
        for model, devices in self._ledger.models.items():
            try:
                self._measure_model(model, devices)
            except ServerDied:
                raise
            except LoadTestError as error:  # the other models go on
                self._ledger.lacks(Gap(model, "", 0, FAILED, str(error)))

    # --- before the measurement

    def _new_senders(self) -> Senders:
        return Senders(self._options.processes, self._options.sender_cores)

    def _probe(self, model: str) -> dict[str, Probed]:
        """The devices that can run a model; the others are gaps."""
        found: dict[str, Probed] = {}
        try:
            self._devices |= frozenset(self._prober.devices(model))
        except LoadTestError as error:
            self._ledger.lacks(Gap(model, "", 0, FAILED, str(error)))
            return found
        for device in self._request.devices:
            probed, gaps = self._prober.probe(self._load(model, device, Experiment(1), 1), self._request.rows)
            for gap in gaps:
                self._ledger.lacks(gap)
            if probed is not None:
                found[device] = probed
        return found

    def _compare_outputs(self, model: str, devices: Sequence[str]) -> None:
        """How far the outputs of each device are from the CPU's, or the first device's."""
        reference = "cpu" if "cpu" in devices else next(iter(devices), "")
        expected = self._prober.outputs(self._load(model, reference, Experiment(self._request.rows[0]), 1)) if devices else []
        for device in devices if expected else ():
            if device != reference:
                found = self._prober.outputs(self._load(model, device, Experiment(self._request.rows[0]), 1))
                if len(found) == len(expected):
                    self._ledger.agreements.append(agreement(model, device, reference, found, expected))

    def _announce(self) -> None:
        lines, commands = [], []
        for model, devices in self._ledger.models.items():
            for device, probed in devices.items():
                batches = ", ".join(f"{batch}: {latency_s * 1e3:.3g} ms" for batch, latency_s in probed.latency_s.items())
                lines.append(f"{model} on {probed.facts.described([])}; one request by batch: {batches}")
                for experiment in experiments(self._request):
                    load = self._load(model, device, experiment, self._request.in_flight or USUALLY_FILLING)
                    commands.append(locust_command(load, self._options.processes))
        latencies_s = [[each.latency_s for each in devices.values()] for devices in self._ledger.models.values()]
        self._progress.planned(lines, estimate_s(self._request, latencies_s), commands)

    def _measure_floor(self) -> None:
        """Calls without inference: what no device can be faster than, as seen from here."""
        self._progress.begun("floor: calls without inference", 2 * FLOOR_S + 1)
        one, many = (
            self._apply(
                Load(
                    self._server.host, "", "", in_flight=in_flight, warm_up_s=0.5, duration_s=FLOOR_S, floor=True,
                    timeout_s=self._request.timeout_s,
                ),
                DeviceFacts(""),
                0,
            )[0]
            for in_flight in (1, FLOOR_IN_FLIGHT * self._options.processes)
        )  # fmt: skip
        if one.service.p50_ms is not None and many.requests_per_s is not None and not one.failures:
            self._ledger.floor = Floor(one.service.p50_ms, many.requests_per_s)

    def _measure_idle(self) -> None:
        """The power of GPUs and CPU without load, if the profile measures energy and there is a source."""
        idle_s = self._request.profile.idle_s
        if idle_s:
            self._progress.begun("power without load", idle_s)
            for name, found in zip(("gpu", "cpu"), self._observer.idle(idle_s, self._progress.tick), strict=True):
                if (watts := found.watts(idle_s)) is not None:
                    self._ledger.idle_w[name] = watts

    # --- the measurement

    def _measure_model(self, model: str, devices: dict[str, Probed]) -> None:
        filled = {
            (device, batch): self._fill(model, device, batch) for device in devices for batch in devices[device].latency_s
        }
        for experiment in experiments(self._request):
            able = [device for device, probed in devices.items() if experiment.batch in probed.latency_s]
            self._rounds(model, experiment, able, filled)
        if self._request.profile.searches:
            for device in devices:
                self._search(model, device, self._request.target_ms or WIDEST_MS)

    def _fill(self, model: str, device: str, batch: int) -> int:
        """How many requests in flight fill a device: twice as many each time, until that brings no more."""
        if self._request.in_flight:
            return self._request.in_flight
        rates: list[tuple[int, float]] = []
        probed = self._ledger.models[model][device]
        length_s = step_s(self._request.profile, probed.latency_s[batch])
        while (in_flight := next_in_flight(rates, batch)) is not None:
            self._progress.begun(f"{model} on {device}, batch {batch}: do {in_flight} requests in flight fill it?", length_s)
            load = replace(
                self._load(model, device, Experiment(batch), in_flight), warm_up_s=STEP_WARM_UP_S, duration_s=length_s
            )
            cell, samples = self._apply(load, probed.facts, 0)
            begin_s, end_s = samples.window_s
            ended = (samples.code == OK) & (samples.ended_s >= begin_s) & (samples.ended_s < end_s)
            rates.append((in_flight, float(ended.sum()) / cell.duration_s if cell.duration_s else 0.0))
        return filling(rates)

    def _rounds(self, model: str, experiment: Experiment, devices: Sequence[str], filled: dict[tuple[str, int], int]) -> None:
        """All rounds of an experiment, devices in turn; more of them if some were disturbed."""
        planned = rounds_of(self._request.profile, len(devices))
        disturbed: set[int] = set()
        for number, device in in_turn(devices, 2 * planned):
            if number > planned + min(int(REPEATED * planned), len(disturbed)):
                return
            cell = self._round(model, device, experiment, filled[device, experiment.batch], number)
            if cell.state == INVALID and cell.reasons[0].startswith(REPEATABLE):
                disturbed.add(number)

    def _round(self, model: str, device: str, experiment: Experiment, in_flight: int, number: int) -> Cell:
        probed = self._ledger.models[model][device]
        lasts_s = duration_s(self._request, experiment, in_flight, probed.latency_s[experiment.batch])
        load = replace(self._load(model, device, experiment, in_flight), duration_s=lasts_s)
        what = f"{load.scenario}, batch {load.batch}, round {number}"
        self._progress.begun(f"{model} on {device}: {what}", load.warm_up_s + lasts_s)
        cell, samples = self._apply(load, probed.facts, number)
        self._enter(cell, samples)
        return cell

    def _search(self, model: str, device: str, target_ms: float) -> None:
        """Looks for the greatest rate that keeps the target."""
        probed, profile = self._ledger.models[model][device], self._request.profile
        batch = min(probed.latency_s)
        start_per_s = start_rate(probed.latency_s[batch], profile.longest_trial_s)
        trials: list[Trial] = []
        while (rate := next_rate(trials, start_per_s)) is not None:
            length_s = trial_length_s(rate, profile.trial_s, profile.longest_trial_s)
            if length_s is None:
                trials.append(
                    Trial(rate, None, f"a p99 at {three_digits(rate)}/s takes longer than {profile.longest_trial_s:g} s")
                )
                continue
            load = replace(
                self._load(model, device, Experiment(batch, rate_per_s=rate), 1),
                duration_s=length_s,
                target_ms=target_ms,
                misses_allowed=misses_allowed(rate, length_s),
            )
            self._progress.begun(f"{model} on {device}: {three_digits(rate)} requests/s within {target_ms:g} ms?", length_s)
            cell, samples = self._apply(load, probed.facts, 0)
            self._enter(cell, samples)
            trials.append(kept(cell, target_ms))
        self._ledger.carries(capacity_of(model, device, batch, target_ms, trials))

    def _apply(self, load: Load, facts: DeviceFacts, number: int) -> tuple[Cell, Samples]:
        """Applies a load, and returns its cell and its samples.

        Raises:
            ServerDied: most of it failed, and the server no longer answers.
            LoadTestError: it can't be sent.
        """
        begun = datetime.now(UTC).isoformat(timespec="milliseconds")
        samples, watch = self._send(load)
        around = self._observer.surroundings(watch, facts, self._cpu_facts(load.model))
        command = locust_command(load, self._options.processes)
        cell = summarise(load, samples, around, command, number, begun)
        cell = judged(cell, Setting(self._ledger.floor, self._shares_cores(facts), usable_cores(), self._devices))
        gone = sum(count for code, count in cell.failures_by_code.items() if code in GONE)
        if 2 * gone >= max(1, cell.requests) and not self._prober.alive():
            if number:
                self._enter(cell, samples)
            raise self._prober.death(next(iter(cell.failure_texts), "no answer"))
        return cell, samples

    def _enter(self, cell: Cell, samples: Samples) -> None:
        self._progress.sampled(cell, samples)
        self._ledger.enter(cell, samples)

    def _send(self, load: Load) -> tuple[Samples, Watch]:
        """Has the senders apply a load; once more with new ones if they died."""
        try:
            return self._send_once(load)
        except SenderDied as death:
            self._progress.said(f"{death}; starting anew")
            return self._send_once(load)

    def _send_once(self, load: Load) -> tuple[Samples, Watch]:
        assert self._senders is not None
        watches: list[Watch] = []
        try:
            self._senders.prepare(load, self._progress.tick)
            samples = self._senders.send(
                load, lambda begin_s, end_s: watches.append(self._observer.watch(begin_s, end_s)), self._progress.tick
            )
        except SenderDied:
            self._senders.close()
            self._senders = self._new_senders()
            raise
        finally:
            for watch in watches:
                watch.stop()
        return samples, watches[0]

    def _load(self, model: str, device: str, experiment: Experiment, in_flight: int) -> Load:
        request, scenario = self._request, experiment.scenario
        limits = {SERVER: open_limit(experiment.rate_per_s, request.target_ms), SINGLE_STREAM: 1, OFFLINE: in_flight}
        return Load(
            host=self._server.host,
            model=model,
            device=device,
            batch=experiment.batch,
            arrival=OPEN if scenario == SERVER else CLOSED,
            fills=scenario == OFFLINE,
            in_flight=limits[scenario],
            rate_per_s=experiment.rate_per_s,
            warm_up_s=request.profile.warm_up_s,
            duration_s=request.profile.window_s,
            timeout_s=request.timeout_s,
            shape=request.shape,
            payload=request.payload,
            repository=request.repository,
            target_ms=request.target_ms,
        )

    def _note_unreached(self, why: str) -> None:
        """A gap for all that has not been measured by now."""
        for gap in self._ledger.unreached(why):
            self._ledger.lacks(gap)

    def _cpu_facts(self, model: str) -> DeviceFacts | None:
        devices = self._ledger.models.get(model, {}).values()
        return next((probed.facts for probed in devices if probed.facts.is_cpu), None)

    def _shares_cores(self, facts: DeviceFacts) -> bool:
        return self._server.is_local and not facts.is_gpu and not self._options.sender_cores
