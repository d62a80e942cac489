"""The answer to the question: does this model need a GPU? From what devices carry, loads, target and prices; nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from turnout_loadtests.formatting import three_digits
from turnout_loadtests.judging.cells import INVALID
from turnout_loadtests.judging.economics import (
    Offer,
    break_even_per_s,
    cheaper_between,
    cost_per_hour,
    needed,
    needed_above,
    worthwhile_per_s,
)
from turnout_loadtests.judging.ladder import TARGETS_MS, keeps, misses_alone
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.judging.validity import DISTURBED
from turnout_loadtests.judging.verdict import Evidence, at_least
from turnout_loadtests.measuring.devices import GPU_KINDS
from turnout_loadtests.payloads import split_precision
from turnout_loadtests.sending.load import SERVER

#: How many ranges of loads a sentence names.
MAX_RANGES = 3
NO, YES, NEEDED, OPEN, UNDECIDED = "no", "yes", "needed", "open", "undecided"


@dataclass(frozen=True)
class Question:
    """What the user asked.

    Attributes:
        prices: of an hour, by device or kind, also of devices that weren't measured.
        searched: whether the profile searches for capacities.
    """

    target_ms: float | None = None
    loads_per_s: Sequence[float] = ()
    prices: Mapping[str, float] = field(default_factory=dict)
    searched: bool = True


@dataclass(frozen=True)
class Answer:
    """The answer on one model.

    Attributes:
        kind: `no`, `yes` (a GPU is cheaper), `needed` (the CPU misses the target even at low load), `open` (what is known
            decides nothing by itself), or `undecided` (what was measured isn't valid).
        headline: the answer in one line. `lines`: what it rests on, and what isn't known.
    """

    model: str
    kind: str
    headline: str
    lines: list[str]


#: What a device carries within a target in milliseconds; None if it isn't known.
Carries = Mapping[tuple[str, float], Capacity | None]


def answer(evidence: Evidence, carries: Carries, question: Question) -> Answer:
    """The answer on one model."""
    return _Answering(evidence, carries, question).answer()


def offer_of(evidence: Evidence, capacity: Capacity) -> Offer:
    """A device with what it carries and its price."""
    return Offer(capacity.device, capacity.per_s or 0.0, evidence.facts[capacity.device].price_per_hour)


class _Answering:
    def __init__(self, evidence: Evidence, carries: Carries, question: Question) -> None:
        self._evidence, self._carries, self._question = evidence, carries, question
        gpus = [device for device in evidence.measured if evidence.facts[device].is_gpu]
        self._others = [device for device in evidence.measured if device not in gpus]
        self._gpus = gpus

    def answer(self) -> Answer:
        if not self._evidence.measured:
            advice = ["Stop what else runs on this machine, and measure again."] if self._disturbed() else []
            return self._said(UNDECIDED, "Undecided: no device has a valid measurement", [*advice, *self._reasons()])
        if not self._others:
            return self._of_gpu_alone()
        target_ms = self._question.target_ms
        if target_ms is None:
            return self._within_several()
        cpu, gpu = self._best(self._others, target_ms), self._best(self._gpus, target_ms)
        if cpu is None:
            return self._without_capacity(target_ms)
        if cpu.capacity_per_s <= 0:
            untold = self._untold(self._others, target_ms)
            return self._without_capacity(target_ms) if untold else self._missed(cpu, gpu, target_ms)
        if self._question.loads_per_s:
            return self._at_load(cpu, gpu, target_ms)
        return self._up_to(cpu, gpu, target_ms)

    # --- the forms of an answer

    def _up_to(self, cpu: Offer, gpu: Offer | None, target_ms: float) -> Answer:
        """No load was given: up to which one is enough."""
        headline = f"No, not for up to {_n(cpu.usable_per_s)} requests/s at p99 ≤ {target_ms:g} ms"
        return self._said(NO, headline, [self._carried(cpu, target_ms), *self._beyond(cpu, gpu, target_ms)])

    def _at_load(self, cpu: Offer, gpu: Offer | None, target_ms: float) -> Answer:
        """The largest load decides; each has its line."""
        loads = sorted(self._question.loads_per_s)
        kind, headline = self._decided_at(loads[-1], cpu, gpu, target_ms)
        lines = [self._carried(cpu, target_ms)]
        lines += [f"{self._decided_at(load, cpu, gpu, target_ms)[1]}." for load in loads[:-1] if load > cpu.usable_per_s]
        return self._said(kind, headline, [*lines, *self._beyond(cpu, gpu, target_ms)])

    def _decided_at(self, load: float, cpu: Offer, gpu: Offer | None, target_ms: float) -> tuple[str, str]:
        where = f"{load:g} requests/s at p99 ≤ {target_ms:g} ms"
        count = needed(load, cpu)
        assert count is not None
        if count == 1:
            return NO, f"No, not for {where}: one {_noun(cpu.device)} is enough"
        cpus, gpu_count = _units(count, cpu), None if gpu is None else needed(load, gpu)
        if gpu is None or gpu_count is None:
            return OPEN, f"{where[0].upper() + where[1:]} take {cpus}, or a GPU that is fast enough"
        gpus = _units(gpu_count, gpu)
        mine, other = cost_per_hour(load, cpu), cost_per_hour(load, gpu)
        if mine is None or other is None:
            return OPEN, f"{where[0].upper() + where[1:]} take {cpus} or {gpus}"
        if other < mine:
            return YES, f"Yes, for {where}: {gpus} ({_money(other)}/h) {_cost(gpu_count)} less than {cpus} ({_money(mine)}/h)"
        return NO, f"No, not for {where}: {cpus} ({_money(mine)}/h) {_cost(count)} no more than {gpus} ({_money(other)}/h)"

    def _missed(self, cpu: Offer, gpu: Offer | None, target_ms: float) -> Answer:
        """Each CPU misses the target even at low load."""
        capacity = self._carries[cpu.device, target_ms]
        least = f" even at {_n(capacity.beyond_per_s)}/s" if capacity and capacity.beyond_per_s else ""
        if misses_alone(self._evidence.single(cpu.device), target_ms):
            least = " even with one request at a time"
        missed = f"the {_noun(cpu.device)} misses p99 ≤ {target_ms:g} ms{least}"
        if gpu is None:
            return self._said(OPEN, f"{missed[0].upper() + missed[1:]}; a GPU was not measured", self._reasons())
        if gpu.capacity_per_s <= 0:
            return self._said(OPEN, f"Neither keeps p99 ≤ {target_ms:g} ms: {missed}, and so does the {_noun(gpu.device)}", [])
        return self._said(NEEDED, f"Yes, it needs one: {missed}", [self._carried(gpu, target_ms)])

    def _within_several(self) -> Answer:
        """No target was given: what each side carries within several."""
        lines = [line for device in (*self._others, *self._gpus) if (line := self._ladder(device))]
        if not lines:
            return self._without_capacity(None)
        return self._said(
            OPEN, lines[0].rstrip("."), [*lines[1:], "Give --slo-p99 for an answer at your target.", *self._reasons()]
        )

    def _without_capacity(self, target_ms: float | None) -> Answer:
        """Nothing was searched, or nothing found: what the loads that were asked for say, or else nothing."""
        if target_ms is not None and (found := self._kept_load(target_ms)):
            return found
        untold = self._untold(self._others, target_ms)
        missed = any(each.beyond_per_s is not None for each in untold)
        if self._question.searched or missed:
            first, *rest = map(self._why_untold, untold)
            gpu = None if target_ms is None else self._best(self._gpus, target_ms)
            lines = [f"{text[0].upper()}{text[1:]}." for text in rest]
            lines += [self._carried(gpu, target_ms)] if gpu and target_ms is not None else []
            lines += ["Measure lower rates: by --load, or by --profile thorough, whose trials last longer."] if missed else []
            return self._said(UNDECIDED, f"Undecided: {first}", [*lines, *self._reasons()])
        headline = "Not decided: the quick profile measures how fast devices are, not what load they carry"
        speeds = [line for device in (*self._others, *self._gpus) if (line := self._speed(device))]
        return self._said(OPEN, headline, [*speeds, "Use --profile standard --slo-p99 50ms for an answer.", *self._reasons()])

    def _kept_load(self, target_ms: float) -> Answer | None:
        """What the Server loads say where there was no search; the largest that was asked for decides."""
        loads = [each for each in self._evidence.summaries if each.key.scenario == SERVER]
        largest = max([*self._question.loads_per_s, *(each.key.rate_per_s for each in loads)], default=0.0)
        told = {each.key: keeps(each, target_ms) for each in loads}
        mine = [each for each in loads if each.key.device in self._others]
        kept = sorted((each for each in mine if told[each.key]), key=lambda each: -each.key.rate_per_s)
        where = f"{largest:g} requests/s at p99 ≤ {target_ms:g} ms"
        if kept and kept[0].key.rate_per_s == largest:
            bound = f"Its p99 is at most {_n(kept[0].latency.p99_upper_ms or 0.0)} ms there."
            lines = [f"{bound} What more it carries was not searched."]
            return self._said(
                NO, f"No, not for {where}: one {_noun(kept[0].key.device)} keeps them", [*lines, *self._reasons()]
            )
        at_largest = [told[each.key] for each in mine if each.key.rate_per_s == largest]
        if not kept and False not in at_largest:
            return None
        lines = [_at_rate(each, target_ms) for each in loads if told[each.key] is not None]
        if at_largest and set(at_largest) == {False}:
            headline = f"{where[0].upper() + where[1:]} are more than one {_noun(self._others[0])} carries"
        else:
            headline = f"Not decided: whether one {_noun(self._others[0])} keeps {where} isn't known"
        return self._said(OPEN, headline, [*lines, *self._reasons()])

    def _of_gpu_alone(self) -> Answer:
        target_ms = self._question.target_ms
        lines = [self._ladder(device) for device in self._gpus] if target_ms is None else []
        if target_ms is not None:
            lines = [self._carried(each, target_ms) for each in self._offers(self._gpus, target_ms)]
        return self._said(OPEN, "Only one half is known: the CPU was not measured", [*filter(None, lines), *self._reasons()])

    # --- their parts

    def _carried(self, offer: Offer, target_ms: float) -> str:
        if offer.capacity_per_s <= 0:
            return f"One {self._named(offer.device)} keeps no rate that was tried."
        capacity = self._carries[offer.device, target_ms]
        more = "" if capacity is None or capacity.beyond_per_s is not None else "at least "
        return (
            f"One {self._named(offer.device)} carries {more}{_n(offer.usable_per_s)} requests/s, "
            f"or {more}{_n(offer.capacity_per_s)} without the reserve of 30\u00a0%."
        )

    def _beyond(self, cpu: Offer, gpu: Offer | None, target_ms: float) -> list[str]:
        """Where a GPU pays off."""
        if gpu is None:
            return [*self._to_win(cpu), *self._reasons()]
        if gpu.capacity_per_s <= 0:
            return [f"The {_noun(gpu.device)} misses the target even at low load."]
        lines = [self._carried(gpu, target_ms)]
        if cpu.price_per_hour is None or gpu.price_per_hour is None:
            missing = [each.device for each in (cpu, gpu) if each.price_per_hour is None]
            return [*lines, f"Which costs less is not known: pass {' '.join(f'--price {each}=…/h' for each in missing)}."]
        rate = break_even_per_s(cpu, gpu)
        if rate is None:
            return [*lines, f"At your prices the GPU is cheaper {_at_some_loads(cheaper_between(cpu, gpu))}."]
        if rate == 0:
            return [*lines, "At your prices the GPU costs less at any load, even where one CPU is enough."]
        cpus, gpus = needed_above(rate, cpu), needed_above(rate, gpu)
        verb = "is" if gpus == 1 else "are"
        text = f"Above {_n(rate)} requests/s {_units(gpus, gpu)} {verb} cheaper than {_units(cpus, cpu)} at your prices"
        costs = f"{_money(gpus * gpu.price_per_hour)} against {_money(cpus * cpu.price_per_hour)} an hour"
        return [*lines, f"{text} ({costs}), and so it stays at any greater load."]

    def _to_win(self, cpu: Offer) -> list[str]:
        """How fast a GPU that wasn't measured would have to be."""
        kind = next((name for name in self._question.prices if name.partition(":")[0] in GPU_KINDS), None)
        price = self._question.prices[kind] if kind else 0.0
        rate = worthwhile_per_s(cpu, price)
        if not price or rate is None:
            return ["No GPU was measured. With its price and the CPU's (--price) this says what it must carry to be cheaper."]
        text = f"To cost less at full load, a GPU at {_money(price)}/h must carry over {_n(rate)} requests/s"
        return [f"{text}, {_n(rate / cpu.capacity_per_s)} times as many."]

    def _ladder(self, device: str) -> str:
        """What a device carries within the usual targets."""
        known = [(target, self._carries.get((device, target))) for target in TARGETS_MS]
        rates = [(target, each) for target, each in known if each is not None and each.per_s is not None]
        if not any(each.per_s for _, each in rates):
            return ""
        numbers = " / ".join(_n(each.per_s or 0.0) for _, each in rates)
        return f"One {_noun(device)} serves {numbers} requests/s within {' / '.join(f'{t:g}' for t, _ in rates)} ms p99."

    def _disturbed(self) -> bool:
        return any(reason.startswith(DISTURBED) for each in self._evidence.summaries for reason in each.reasons)

    def _speed(self, device: str) -> str:
        """How fast a device is, alone and filled; empty if neither is valid."""
        fullest, single, said = self._evidence.fullest(device), self._evidence.single(device), []
        if fullest and fullest.state != INVALID and fullest.rows_per_s is not None:
            said.append(
                f"answers {at_least(fullest)}{_n(fullest.rows_per_s)} rows/s when it is filled, at batch {fullest.key.batch}"
            )
        if single and single.state != INVALID and single.latency.p50_ms is not None:
            said.append(f"takes {_n(single.latency.p50_ms)} ms for one request at a time (p50)")
        return f"One {self._named(device)} {', and '.join(said)}." if said else ""

    def _reasons(self) -> list[str]:
        """What wasn't measured, and what isn't valid."""
        lines = [f"{_noun(name)} was not measured: {why}." for name, why in self._evidence.missing.items()]
        for device in self._evidence.facts:
            if device not in self._evidence.measured:
                said = [reason for each in self._evidence.summaries if each.key.device == device for reason in each.reasons]
                lines.append(f"{_noun(device)} has no valid measurement: {(said or ['it was not reached'])[0]}.")
        return lines

    def _untold(self, devices: Sequence[str], target_ms: float | None) -> list[Capacity]:
        """What is known of the devices of which it isn't known what they carry: a bound, or why it isn't known."""
        known = [each for each in self._evidence.capacities if target_ms in (None, each.target_ms)]
        found = []
        for device in devices:
            unknown = Capacity(self._evidence.model, device, 0, target_ms or 0.0, None, reason="no search came to its end")
            searched = next((each for each in known if each.device == device), unknown)
            found.append(searched if target_ms is None else self._carries.get((device, target_ms)) or searched)
        return [each for each in found if each.per_s is None]

    def _why_untold(self, capacity: Capacity) -> str:
        return f"what one {_noun(capacity.device)} carries isn't known: {capacity.reason}"

    def _best(self, devices: Sequence[str], target_ms: float) -> Offer | None:
        """The device that carries most."""
        return max(self._offers(devices, target_ms), key=lambda each: each.capacity_per_s, default=None)

    def _offers(self, devices: Sequence[str], target_ms: float) -> list[Offer]:
        found = [self._carries.get((device, target_ms)) for device in devices]
        return [offer_of(self._evidence, each) for each in found if each is not None and each.per_s is not None]

    def _named(self, device: str) -> str:
        """The device with what tells it from others of its kind."""
        described = self._evidence.named(device)
        return f"{_noun(device)}{described[len(device) :]}" if described.startswith(device) else described

    def _said(self, kind: str, headline: str, lines: Sequence[str]) -> Answer:
        return Answer(self._evidence.model, kind, f"{headline}.", list(lines))


def _noun(device: str) -> str:
    """A device's name for a sentence: the plain kinds have words, others their own names."""
    name, precision = split_precision(device)
    return " ".join(filter(None, [{"cpu": "CPU", "cuda": "GPU"}.get(name, name), precision and f"with {precision}"]))


def _at_rate(load: Summary, target_ms: float) -> str:
    """Whether a device kept the target under a load at a rate, and how that shows."""
    name, rate, bound_ms = _noun(load.key.device), f"{load.key.rate_per_s:g} requests/s", load.latency.p99_upper_ms
    if keeps(load, target_ms):
        return f"One {name} keeps {rate}: its p99 is at most {_n(bound_ms or 0.0)} ms there."
    return f"One {name} doesn't keep {rate}: {load.overloaded or f'its p99 may be {_n(bound_ms or 0.0)} ms'}."


def _units(count: int, offer: Offer) -> str:
    noun = _noun(offer.device)
    return f"one {noun}" if count == 1 else f"{count} {noun}s" if noun in ("CPU", "GPU") else f"{count} x {noun}"


def _at_some_loads(ranges: Sequence[tuple[float, float]]) -> str:
    """The loads at which a device costs less, where it isn't all above one."""
    if not ranges:
        return "at no load"
    said = [f"between {_n(begin)} and {_n(end)}" if begin else f"up to {_n(end)}" for begin, end in ranges[:MAX_RANGES]]
    loads = f"{' and '.join(filter(None, [', '.join(said[:-1]), said[-1]]))} requests/s"
    return f"only {loads}" if len(ranges) <= MAX_RANGES else f"at some loads only, the first of which are {loads}"


def _cost(count: int) -> str:
    return "costs" if count == 1 else "cost"


def _n(value: float) -> str:
    return three_digits(value)


def _money(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}".replace(",", " ")
