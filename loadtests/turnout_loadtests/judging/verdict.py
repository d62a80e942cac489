"""What the measurements say of a model's devices, in a sentence or two: the best device of each side against each other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from turnout_loadtests.formatting import three_digits
from turnout_loadtests.judging.cells import INVALID, LIMITED
from turnout_loadtests.judging.comparisons import (
    BETTER,
    HELD_BACK,
    LATENCY,
    MARGIN,
    SAME,
    TAIL,
    THROUGHPUT,
    WORSE,
    Comparison,
    by_latency,
    by_tail,
    by_throughput,
)
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.measuring.devices import DeviceFacts
from turnout_loadtests.sending.load import OFFLINE, SERVER, SINGLE_STREAM


@dataclass(frozen=True)
class Evidence:
    """What is known of one model.

    Attributes:
        facts: of its devices, by the name that was asked for.
        missing: why a device wasn't measured, by name.
    """

    model: str
    facts: Mapping[str, DeviceFacts]
    summaries: Sequence[Summary]
    capacities: Sequence[Capacity]
    missing: Mapping[str, str]

    def of(self, device: str, scenario: str) -> list[Summary]:
        """A device's summaries of a scenario."""
        return [each for each in self.summaries if each.key.device == device and each.key.scenario == scenario]

    def fullest(self, device: str) -> Summary | None:
        """The usable Offline summary with the most rows per second; an invalid one only if there is no other.

        Its headroom is unknown if a larger batch, with which the device may do better, has no valid measurement.
        """
        found = self.of(device, OFFLINE)
        best = max(found, key=lambda each: (each.state != INVALID, each.rows_per_s or 0.0), default=None)
        return replace(best, headroom=None) if best and self.untold(device, best) else best

    def untold(self, device: str, best: Summary) -> list[Summary]:
        """The Offline summaries of larger batches than `best` that aren't valid."""
        return [each for each in self.of(device, OFFLINE) if each.state == INVALID and each.key.batch > best.key.batch]

    def single(self, device: str) -> Summary | None:
        """The SingleStream summary."""
        return next(iter(self.of(device, SINGLE_STREAM)), None)

    def capacity(self, device: str) -> Capacity | None:
        """The capacity within the latency target; None if it wasn't searched or not found."""
        found = next((each for each in self.capacities if each.device == device), None)
        return found if found and found.per_s is not None else None

    def named(self, device: str) -> str:
        """The device with threads, instances, provider and precision."""
        precisions = {name for each in self.summaries if each.key.device == device for name in each.precisions}
        return self.facts.get(device, DeviceFacts(device)).described(sorted(precisions))

    @property
    def measured(self) -> list[str]:
        """The devices with any usable summary, in the order of the request."""
        usable = {each.key.device for each in self.summaries if each.state != INVALID}
        return [device for device in self.facts if device in usable]


def comparisons(evidence: Evidence) -> list[Comparison]:
    """Each of the two sides' best device against the other's; without two sides, the best against each other device."""
    found = []
    for first, second in _opponents(evidence):
        pairs: list[tuple[Callable[[Summary, Summary], Comparison], Summary | None, Summary | None]] = [
            (partial(_by_throughput, evidence), evidence.fullest(first), evidence.fullest(second)),
            (by_latency, evidence.single(first), evidence.single(second)),
            (by_tail, evidence.single(first), evidence.single(second)),
        ]
        found += [compare(one, other) for compare, one, other in pairs if one and other]
        for one in evidence.of(first, SERVER):
            same_load = [s for s in evidence.of(second, SERVER) if s.key.experiment == one.key.experiment]
            found += [_at_load(by_tail(one, other), one) for other in same_load]
    return found


def verdict(evidence: Evidence, compared: Sequence[Comparison]) -> str:
    """The verdict on one model. It states nothing about what wasn't measured or isn't valid."""
    parts = []
    devices = list(evidence.facts)
    invalid = [device for device in devices if device not in evidence.measured and device not in evidence.missing]
    missing = [f"{device} wasn't measured ({reason})" for device, reason in evidence.missing.items()]
    broken = [f"{device} has no valid measurement ({_first_reason(evidence, device)})" for device in invalid]
    for first, second in _opponents(evidence):
        parts.append(
            _pair(evidence, [each for each in compared if (each.first, each.second) == (first, second)], first, second)
        )
    if not parts and evidence.measured:
        parts = [f"No comparison: {'; '.join([*missing, *broken]) or 'one device was measured'}."]
        missing = broken = []
        parts += [_alone(evidence, device) for device in evidence.measured]
    if not parts:
        return f"Undecided: {'; '.join([*missing, *broken]) or 'nothing was measured'}."
    rest = [*missing, *broken]
    return " ".join([*parts, f"Besides: {'; '.join(rest)}."] if rest else parts)


def _by_throughput(evidence: Evidence, first: Summary, second: Summary) -> Comparison:
    """Two devices at their best; undecided where a batch that wasn't measured well may be the better one of a device."""
    found = by_throughput(first, second)
    untold = [each for side in (first, second) for each in evidence.untold(side.key.device, side)]
    if found.decided or not untold or INVALID in (first.state, second.state):
        return found
    batches = "; ".join(f"{each.key.device} at batch {each.key.batch}: {each.reasons[0]}" for each in untold)
    return replace(found, reason=f"there is no valid measurement of {batches}")


def _opponents(evidence: Evidence) -> list[tuple[str, str]]:
    """The pairs of devices to compare, the better one first."""
    measured = evidence.measured
    gpus = [device for device in measured if evidence.facts[device].is_gpu]
    cpus = [device for device in measured if evidence.facts[device].is_cpu]
    if gpus and cpus:
        sides = [_best(evidence, gpus), _best(evidence, cpus)]
        rest = [device for device in measured if device not in (*gpus, *cpus)]  # of which it isn't known what they are
        first, *others = sorted([*sides, *rest], key=lambda device: -_rank(evidence, device))
        return [(first, device) for device in others]
    best = _best(evidence, measured) if measured else ""
    return [(best, device) for device in measured if device != best]


def _best(evidence: Evidence, devices: Sequence[str]) -> str:
    return max(devices, key=lambda device: _rank(evidence, device))


def _rank(evidence: Evidence, device: str) -> float:
    """What devices are ranked by: the capacity within the target if all have one, else the most rows per second."""
    capacities = [evidence.capacity(each) for each in evidence.measured]
    mine = evidence.capacity(device)
    if mine and mine.per_s is not None and all(capacities):
        return mine.per_s
    fullest, single = evidence.fullest(device), evidence.single(device)
    if fullest and fullest.rows_per_s is not None:
        return fullest.rows_per_s
    return single.rows_per_s or 0.0 if single else 0.0


def _pair(evidence: Evidence, compared: Sequence[Comparison], first: str, second: str) -> str:
    """One device against another: what each is better at, what is worse, and what is undecided."""
    names = f"{evidence.named(first)} against {evidence.named(second)}"
    said = {each.quantity: each for each in compared if each.decided}
    open_ = [each for each in compared if not each.decided and each.quantity in (THROUGHPUT, LATENCY)]
    sentences = [_capacities(evidence, first, second)]
    texts = [_said(evidence, each) for each in said.values()]
    better = {each.quantity for each in said.values() if each.outcome == BETTER}
    worse = {each.quantity for each in said.values() if each.outcome == WORSE}
    if texts:
        sentences.append(f"{names}: {', '.join(texts)}.")
    else:
        sentences.append(f"Undecided: {names}.")
    if better and worse:
        sentences.append("Neither is better in every respect.")
    elif said and all(each.outcome == SAME for each in said.values()) and not open_:
        sentences.append("They don't differ by more than the 5 % that count as none.")
    sentences += [f"Undecided in {each.quantity}{_measured_ratio(each)}: {each.reason}." for each in open_]
    return " ".join(filter(None, sentences))


def _capacities(evidence: Evidence, first: str, second: str) -> str:
    told = [each for each in evidence.capacities if each.per_s is not None or each.beyond_per_s is not None]
    found = [next((each for each in told if each.device == device), None) for device in (first, second)]
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return ""
    rates = " and ".join(f"{capacity.device} {_rate(capacity)}" for capacity in known)
    return f"Within a p99 of {known[0].target_ms:g} ms, {rates}."


def _rate(capacity: Capacity) -> str:
    if not capacity.per_s:
        least = "" if capacity.beyond_per_s is None else f", of which the least is {three_digits(capacity.beyond_per_s)}/s"
        return f"keeps no rate that was tried{least}"
    more = "" if capacity.beyond_per_s is not None else "at least "
    return f"carries {more}{three_digits(capacity.per_s)} requests/s"


def _said(evidence: Evidence, each: Comparison) -> str:
    """A decided comparison as a phrase, with both values."""
    interval = _interval(each)
    if each.quantity == THROUGHPUT:
        rows = [evidence.fullest(device) for device in (each.first, each.second)]
        values = " against ".join(f"{at_least(s)}{three_digits(s.rows_per_s)}" for s in rows if s and s.rows_per_s is not None)
        if each.outcome == SAME:
            return f"the same throughput ({values} rows/s)"
        return f"{interval} the throughput ({values} rows/s)"
    quantity = "median latency" if each.quantity == LATENCY else "p99"
    times = f"{_ms(each.first_value)} against {_ms(each.second_value)} ms"
    if each.outcome == SAME:
        return f"the same {quantity} ({times})"
    where = " with one request at a time" if not each.reason else f" {each.reason}"
    return f"{interval} the {quantity}{where} ({times})"


def _interval(each: Comparison) -> str:
    ratio = f"{three_digits(each.ratio or 0.0)} times"
    if (each.low is None and each.high is None) or each.quantity == TAIL:
        return ratio
    if each.low is None:
        return f"at most {three_digits(each.high or 0.0)} times"
    if each.high is None:
        return f"at least {three_digits(each.low)} times"
    return f"{ratio} ({three_digits(each.low)} to {three_digits(each.high)})"


def _measured_ratio(each: Comparison) -> str:
    """The ratio of an undecided comparison; without the interval where that is about what couldn't be measured."""
    if each.ratio is None:
        return ""
    open_ended = each.low is None or each.reason.startswith(HELD_BACK)
    return f" (measured: {three_digits(each.ratio)} times)" if open_ended else f" (measured: {_interval(each)})"


def _at_load(each: Comparison, summary: Summary) -> Comparison:
    return each if not each.decided else replace(each, reason=f"at {three_digits(summary.key.rate_per_s)} requests/s")


def _alone(evidence: Evidence, device: str) -> str:
    """What one device does, without a comparison."""
    said = []
    if (capacity := evidence.capacity(device)) is not None:
        said.append(f"{_rate(capacity)} within a p99 of {capacity.target_ms:g} ms")
    fullest, single = evidence.fullest(device), evidence.single(device)
    if fullest and fullest.state != INVALID and fullest.rows_per_s is not None:
        said.append(f"answers {at_least(fullest)}{three_digits(fullest.rows_per_s)} rows/s at batch {fullest.key.batch}")
    if single and single.state != INVALID and single.latency.p50_ms is not None:
        said.append(f"takes {_ms(single.latency.p50_ms)} ms for one request at a time (p50)")
    return f"{evidence.named(device)} {', '.join(said) or 'was measured'}."


def _first_reason(evidence: Evidence, device: str) -> str:
    reasons = [reason for each in evidence.summaries if each.key.device == device for reason in each.reasons]
    return reasons[0] if reasons else "no measurement"


def at_least(summary: Summary) -> str:
    """What to say before a device's rate, if it may do better than measured."""
    return "at least " if summary.state == LIMITED or summary.headroom is None or summary.headroom > 1 + MARGIN else ""


def _ms(value: float | None) -> str:
    return "-" if value is None else three_digits(value)
