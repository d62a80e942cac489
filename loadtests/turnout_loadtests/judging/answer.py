"""The answer to the question: does this model need a GPU? From what devices carry, loads, target and prices; nothing else."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from turnout_loadtests.formatting import three_digits
from turnout_loadtests.judging.cells import INVALID
from turnout_loadtests.judging.economics import (
    Offer,
    break_even_per_s,
    cheaper_between,
    cost_per_hour,
    fewest,
    least_cost_per_hour,
    needed,
    needed_above,
    worthwhile_per_s,
)
from turnout_loadtests.judging.ladder import TARGETS_MS, keeps, misses_alone
from turnout_loadtests.judging.search import RESOLUTION, Capacity
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
    """A device with what it carries and its price.

    A capacity that wasn't found to the resolution of a search is only known to be this or more.
    """
    low, high = capacity.per_s, capacity.beyond_per_s
    found = low is not None and (low <= 0 or (high is not None and high <= (1 + 2 * RESOLUTION) * low))
    price = evidence.facts[capacity.device].price_per_hour
    return Offer(capacity.device, low or 0.0, price, at_least=not found, most_per_s=None if found else high)


class _Answering:
    def __init__(self, evidence: Evidence, carries: Carries, question: Question) -> None:
        self._evidence, self._carries, self._question = evidence, carries, question
        gpus = [device for device in evidence.measured if evidence.facts[device].is_gpu]
        self._cpus = [device for device in evidence.measured if evidence.facts[device].is_cpu]
        self._gpus = gpus
        self._neither = [device for device in evidence.measured if device not in (*self._cpus, *gpus)]

    def answer(self) -> Answer:
        if not self._evidence.measured:
            advice = ["Stop what else runs on this machine, and measure again."] if self._disturbed() else []
            return self._said(UNDECIDED, "Undecided: no device has a valid measurement", [*advice, *self._reasons()])
        if not self._cpus:
            return self._of_gpu_alone()
        target_ms = self._question.target_ms
        if target_ms is None:
            return self._within_several()
        cpu, gpu = self._best(self._cpus, target_ms), self._best(self._gpus, target_ms)
        if cpu is None:
            return self._within_bound(gpu, target_ms) or self._without_capacity(target_ms)
        if cpu.capacity_per_s <= 0:
            untold = self._untold(self._cpus, target_ms)
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
        """What a load takes. A side costs less only if it does whatever more the other one's devices may carry."""
        where = f"{load:g} requests/s at p99 ≤ {target_ms:g} ms"
        if needed(load, cpu) == 1:
            return NO, f"No, not for {where}: one {_noun(cpu.device)} is enough"
        cpus, take = _range(load, cpu), f"{where[0].upper() + where[1:]} take"
        if gpu is None or needed(load, gpu) is None:
            return OPEN, f"{take} {cpus}, or a GPU that is fast enough"
        gpus = _range(load, gpu)
        if cpu.price_per_hour is None or gpu.price_per_hour is None:
            return OPEN, f"{take} {cpus} or {gpus}"
        mine, other = cost_per_hour(load, cpu), cost_per_hour(load, gpu)
        least_cpu = least_cost_per_hour(load, self._possible(self._cpus, target_ms))
        least_gpu = least_cost_per_hour(load, self._possible(self._gpus, target_ms))
        cpus, gpus = f"{cpus} ({_costs(load, cpu)}/h)", f"{gpus} ({_costs(load, gpu)}/h)"
        if other is not None and least_cpu is not None and other < least_cpu:
            return YES, f"Yes, for {where}: {gpus} {_cost(needed(load, gpu))} less than {cpus}"
        if mine is not None and least_gpu is not None and mine <= least_gpu:
            return NO, f"No, not for {where}: {cpus} {_cost(needed(load, cpu))} no more than {gpus}"
        return OPEN, f"{take} {cpus} or {gpus}; which costs less isn't known"

    def _missed(self, cpu: Offer, gpu: Offer | None, target_ms: float) -> Answer:
        """Each CPU misses the target even at low load."""
        capacity = self._carries[cpu.device, target_ms]
        least = f" even at {_n(capacity.beyond_per_s)}/s" if capacity and capacity.beyond_per_s else ""
        if misses_alone(self._evidence.single(cpu.device), target_ms):
            least = " even with one request at a time"
        missed = f"the {_noun(cpu.device)} misses p99 ≤ {target_ms:g} ms{least}"
        if gpu is None:
            untold = [self._why_untold(each) for each in self._untold(self._gpus, target_ms)]
            why = untold[0] if untold else "a GPU was not measured"
            return self._said(OPEN, f"{missed[0].upper() + missed[1:]}; {why}", self._reasons())
        if gpu.capacity_per_s <= 0:
            return self._said(OPEN, f"Neither keeps p99 ≤ {target_ms:g} ms: {missed}, and so does the {_noun(gpu.device)}", [])
        return self._said(NEEDED, f"Yes, it needs one: {missed}", [self._carried(gpu, target_ms)])

    def _within_several(self) -> Answer:
        """No target was given: what each side carries within several."""
        lines = [line for device in (*self._cpus, *self._gpus) if (line := self._ladder(device))]
        if not lines:
            return self._without_capacity(None)
        return self._said(
            OPEN, lines[0].rstrip("."), [*lines[1:], "Give --slo-p99 for an answer at your target.", *self._reasons()]
        )

    def _without_capacity(self, target_ms: float | None) -> Answer:
        """Nothing was searched, or nothing found: what the loads that were asked for say, or else nothing."""
        if target_ms is not None and (found := self._kept_load(target_ms)):
            return found
        untold = self._untold(self._cpus, target_ms)
        missed = any(each.beyond_per_s is not None for each in untold)
        if self._question.searched or missed:
            first, *rest = map(self._why_untold, untold)
            gpu = None if target_ms is None else self._best(self._gpus, target_ms)
            lines = [f"{text[0].upper()}{text[1:]}." for text in rest]
            lines += [self._carried(gpu, target_ms)] if gpu and target_ms is not None else []
            lines += ["Measure lower rates: by --load, or by --profile thorough, whose trials last longer."] if missed else []
            return self._said(UNDECIDED, f"Undecided: {first}", [*lines, *self._reasons()])
        headline = "Not decided: the quick profile measures how fast devices are, not what load they carry"
        speeds = [line for device in (*self._cpus, *self._gpus) if (line := self._speed(device))]
        return self._said(OPEN, headline, [*speeds, "Use --profile standard --slo-p99 50ms for an answer.", *self._reasons()])

    def _within_bound(self, gpu: Offer | None, target_ms: float) -> Answer | None:
        """A load that a GPU carries for less than as many CPUs as it takes at least, although what one carries isn't known."""
        load = max(self._question.loads_per_s, default=0.0)
        most = max((each for each in self._possible(self._cpus, target_ms)), key=lambda each: each.most_per_s or math.inf)
        if gpu is None or most.most_per_s is None or not load:
            return None
        kind, headline = self._decided_at(load, most, gpu, target_ms)
        why = [f"{text[0].upper()}{text[1:]}." for text in map(self._why_untold, self._untold(self._cpus, target_ms))]
        return self._said(kind, headline, [*why, self._carried(gpu, target_ms), *self._reasons()]) if kind == YES else None

    def _kept_load(self, target_ms: float) -> Answer | None:
        """What the Server loads say where there was no search; the largest that was asked for decides."""
        loads = [each for each in self._evidence.summaries if each.key.scenario == SERVER]
        largest = max([*self._question.loads_per_s, *(each.key.rate_per_s for each in loads)], default=0.0)
        told = {each.key: keeps(each, target_ms) for each in loads}
        mine = [each for each in loads if each.key.device in self._cpus]
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
            headline = f"{where[0].upper() + where[1:]} are more than one {_noun(self._cpus[0])} carries"
        else:
            headline = f"Not decided: whether one {_noun(self._cpus[0])} keeps {where} isn't known"
        return self._said(OPEN, headline, [*lines, *self._reasons()])

    def _of_gpu_alone(self) -> Answer:
        target_ms = self._question.target_ms
        if not self._gpus:
            names = ", ".join(map(_noun, self._neither))
            speeds = [line for device in self._neither if (line := self._speed(device))]
            return self._said(OPEN, f"Not decided: {names} may be a CPU or a GPU, or neither", [*speeds, *self._reasons()])
        lines = [self._ladder(device) for device in self._gpus] if target_ms is None else []
        if target_ms is not None:
            lines = [self._carried(each, target_ms) for each in self._offers(self._gpus, target_ms)]
        return self._said(OPEN, "Only one half is known: the CPU was not measured", [*filter(None, lines), *self._reasons()])

    # --- their parts

    def _carried(self, offer: Offer, target_ms: float) -> str:
        if offer.capacity_per_s <= 0:
            return f"One {self._named(offer.device)} keeps no rate that was tried."
        more = "at least " if offer.at_least else ""
        capacity = self._carries[offer.device, target_ms]
        why = (
            f" What more it carries isn't known: {capacity.reason}." if capacity and capacity.reason and offer.at_least else ""
        )
        return (
            f"One {self._named(offer.device)} carries {more}{_n(offer.usable_per_s)} requests/s, "
            f"or {more}{_n(offer.capacity_per_s)} without the reserve of 30\u00a0%.{why}"
        )

    def _beyond(self, cpu: Offer, gpu: Offer | None, target_ms: float) -> list[str]:
        """Where a GPU pays off."""
        untold = [f"{text[0].upper()}{text[1:]}." for text in map(self._why_untold, self._untold(self._gpus, target_ms))]
        if gpu is None:
            return [*(untold or self._to_win(cpu)), *self._reasons()]
        if gpu.capacity_per_s <= 0:
            return [f"The {_noun(gpu.device)} misses the target even at low load.", *untold]
        lines = [*untold, *self._unclear(), self._carried(gpu, target_ms)]
        if cpu.price_per_hour is None or gpu.price_per_hour is None:
            missing = [each.device for each in (cpu, gpu) if each.price_per_hour is None]
            return [*lines, f"Which costs less is not known: pass {' '.join(f'--price {each}=…/h' for each in missing)}."]
        return [*lines, self._break_even(cpu, gpu)]

    def _break_even(self, cpu: Offer, gpu: Offer) -> str:
        """From which load on a GPU costs less, whatever more one CPU may carry than was found."""
        rate = break_even_per_s(cpu.at_best, gpu) if cpu.at_best else None
        if cpu.at_best is None or rate is None:
            unsure = [_noun(each.device) for each in (cpu, gpu) if each.at_least]
            if unsure:
                return f"Above which load the GPU costs less isn't known: one {' and one '.join(unsure)} may carry more."
            return f"At your prices the GPU is cheaper {_at_some_loads(cheaper_between(cpu, gpu))}."
        if rate == 0:
            return "At your prices the GPU costs less at any load, even where one CPU is enough."
        cpus, gpus = needed_above(rate, cpu.at_best), needed_above(rate, gpu)
        costs = f"{_money(gpus * (gpu.price_per_hour or 0.0))} against {_money(cpus * (cpu.price_per_hour or 0.0))} an hour"
        verb, more = "is" if gpus == 1 else "are", " or more" if cpu.at_least else ""
        text = f"Above {_n(rate)} requests/s {_units(gpus, gpu)} {verb} cheaper than {_units(cpus, cpu)}{more} at your prices"
        return f"{text} ({costs}), and so it stays at any greater load."

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
        lines = [*self._unclear(), *(f"{_noun(name)} was not measured: {why}." for name, why in self._evidence.missing.items())]
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
            unknown = Capacity(self._evidence.model, device, 0, target_ms or 0.0, None, reason="no search found it")
            searched = next((each for each in known if each.device == device), unknown)
            found.append(searched if target_ms is None else self._carries.get((device, target_ms)) or searched)
        return [each for each in found if each.per_s is None]

    def _possible(self, devices: Sequence[str], target_ms: float) -> list[Offer]:
        """The devices with all that is known of what they carry, be it only a bound, or nothing."""
        untold = [offer_of(self._evidence, each) for each in self._untold(devices, target_ms)]
        return [*self._offers(devices, target_ms), *untold]

    def _why_untold(self, capacity: Capacity) -> str:
        return f"what one {_noun(capacity.device)} carries isn't known: {capacity.reason}"

    def _best(self, devices: Sequence[str], target_ms: float) -> Offer | None:
        """The device that carries most."""
        return max(self._offers(devices, target_ms), key=lambda each: each.capacity_per_s, default=None)

    def _unclear(self) -> list[str]:
        """The devices that take no part in the answer, because they are neither a CPU nor a GPU as far as is known."""
        hardware = {device: self._evidence.facts[device].computes_on for device in self._neither}
        stated = {
            device: f"it is an {name.upper()}" if name else "the server doesn't say which" for device, name in hardware.items()
        }
        return [f"{_noun(device)} counts neither as a CPU nor as a GPU: {why}." for device, why in stated.items()]

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


def _range(load: float, offer: Offer) -> str:
    """How many devices a load takes, as far as that is known."""
    most, least = needed(load, offer), fewest(load, offer)
    if most is None:
        return f"at least {_units(least or 1, offer)}"
    if least == most:
        return _units(most, offer)
    return f"at most {_units(most, offer)}" if offer.at_best is None else f"{least} to {_units(most, offer)}"


def _costs(load: float, offer: Offer) -> str:
    """What they cost in an hour, likewise; of a device with a price."""
    price, most, least = offer.price_per_hour or 0.0, needed(load, offer), fewest(load, offer) or 1
    if most is None or least == most:
        return _money(least * price)
    return _money(most * price) if offer.at_best is None else f"{_money(least * price)} to {_money(most * price)}"


def _cost(count: int | None) -> str:
    return "costs" if count == 1 else "cost"


def _n(value: float) -> str:
    return three_digits(value)


def _money(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}".replace(",", " ")
