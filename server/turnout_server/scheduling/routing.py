"""Where a request runs: a pure decision over what the devices look like at this moment.

A named device is a contract: the request runs there or fails. Only `auto` and a preference list may move it. The statuses
are settled in docs/protocol.md, "Status for devices"; the model and a worked example are in docs/routing.md.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from turnout_server.core.device_names import AUTO, entries_of, kind_of
from turnout_server.core.errors import FailedPrecondition, InvalidRequest, Overloaded, ServingError, Unavailable
from turnout_server.scheduling.arrivals import Comers

#: What `auto` may go by.
LATENCY, COST, ENERGY = "latency", "cost", "energy"
OBJECTIVES = (LATENCY, COST, ENERGY)
#: What must be set for a device before it can be compared by an objective.
NEEDED = {COST: "price_per_hour", ENERGY: "idle_w and busy_w"}

#: What a `device` value names, in its order, each with the devices that are meant.
Entries = tuple[tuple[str, tuple[str, ...]], ...]

#: By how much another device must be sooner than the one chosen last before the choice changes.
HYSTERESIS = 0.1
#: The share of its time that a request must be expected to have left on a cheaper device. Without it, such a device is filled
#: up to the point where half of its requests come too late, because predictions err.
MARGIN = 0.1
#: A request may make so many others too late, if another device is there for it: as many as itself.
WORTH = 1.0


class Forecast(NamedTuple):
    """What would become of a request that was sent to a device now, all in microseconds.

    Attributes:
        wait_us: until what runs and what waits before it is done.
        service_us: the runs it would be in.
        added_us: how much longer the device would be busy for it.
        alone_us, fastest_us: a run of its own, as expected, and as it was at its fastest.
    """

    wait_us: float
    service_us: float
    added_us: float
    alone_us: float
    fastest_us: float

    @property
    def finish_us(self) -> float:
        """When it would be finished."""
        return self.wait_us + self.service_us

    @property
    def soonest_us(self) -> float:
        """The same if all until then went as fast, in proportion, as its model's fastest run."""
        return self.finish_us * self.fastest_us / self.alone_us if self.alone_us else self.finish_us


class Candidate(NamedTuple):
    """One device as a request for one model meets it.

    Attributes:
        problem: why the model can't run there now; None where it can.
        finish_us: when a request sent there now would be finished, in microseconds from now; None if never measured.
        soonest_us: the same if it runs as fast as it ever did.
        service_us: what it would take there if nothing else did.
        added_us: for how much longer the device would be busy.
        rate: what an hour of the device costs by the request's objective; None if nobody said.
        held_us: for how long it would hold the device at a time; None where nobody asks.
        comers: whom it would make wait there: others at least as urgent, as they come of late.
    """

    name: str
    problem: ServingError | None = None
    finish_us: float | None = None
    soonest_us: float | None = None
    service_us: float | None = None
    added_us: float | None = None
    rate: float | None = None
    held_us: float | None = None
    comers: Sequence[Comers] = ()


class Route(NamedTuple):
    """The device picked and the reason: one of the closed set that is also a metric label."""

    device: str
    reason: str
    predicted_us: float | None = None


class Wish(NamedTuple):
    """What a request wants of its device.

    Attributes:
        entries: what it named, in its order of preference, each with the devices that are meant.
        objective: what decides between several.
        deadline_us: from now; a device that can't finish by then is as good as none.
        target_us: from now; by when a cheaper device must finish to be preferred.
        last: the device chosen for the last request like it.
    """

    entries: Entries
    objective: str = LATENCY
    deadline_us: float | None = None
    target_us: float | None = None
    last: str = ""


@lru_cache(maxsize=1024)
def resolve(requested: str, devices: tuple[str, ...]) -> Entries:
    """The entries of a `device` value, each with the devices that are meant; an exact name goes before a kind.

    Args:
        requested: `auto`, a device, a kind, or a comma-separated order of preference.
        devices: every device of this server.

    Raises:
        InvalidRequest: a malformed name; the text lists what exists.
    """
    try:
        entries = entries_of(requested, {kind_of(name) for name in devices})
    except ValueError as error:
        raise InvalidRequest(f"{error}; this server has: {', '.join(devices)}; or ask for '{AUTO}'") from None
    return tuple((entry, _meant(entry, devices)) for entry in entries)


def _meant(entry: str, devices: tuple[str, ...]) -> tuple[str, ...]:
    return (entry,) if entry in devices else tuple(name for name in devices if entry in (AUTO, kind_of(name)))


def sole(entries: Entries) -> str:
    """The one device that is meant; empty if there are several, or none."""
    return entries[0][1][0] if len(entries) == 1 == len(entries[0][1]) else ""


def sole_reason(entries: Entries) -> str:
    """Why a request goes to the one device that it may mean."""
    return "only-device" if entries[0][0] == AUTO else "requested"


def why_missing(name: str, missing: Mapping[str, str]) -> str | None:
    """Why a device, or a kind of them, is absent; None if nobody said."""
    return missing.get(name) or missing.get(kind_of(name))


def wait_us(left_us: Sequence[float], ahead_us: float, instances: int) -> float:
    """How long a request waits, in microseconds.

    Args:
        left_us: what is left of each run that goes on.
        ahead_us: what the runs of all that waits before it take.
        instances: how many runs may go on at once.
    """
    return (sum(left_us) + ahead_us) / instances if ahead_us or len(left_us) >= instances else 0.0


def delay_us(candidate: Candidate) -> float:
    """What a request makes all those wait who come to its device until it is finished.

    Those who come before the device would have been free wait `added_us` longer; those who come from then on half of that, on
    average. Without this term a long run goes to a slow device that idles, to gain a little, in the way of many short ones.
    """
    finish_us, added_us, per_s = candidate.finish_us, candidate.added_us, 0.0
    if finish_us is None or added_us is None:
        return 0.0
    for comers in candidate.comers:
        per_s += comers.per_s
    return per_s * 1e-6 * added_us * (finish_us - added_us / 2)


def made_late(candidate: Candidate) -> float:
    """How many of those who come to a device while a request holds it will have waited longer there than they can."""
    held_us, late = candidate.held_us, 0.0
    if held_us is not None:
        for per_s, can_wait_us in candidate.comers:
            if can_wait_us < held_us:
                late += per_s * 1e-6 * (held_us - can_wait_us)
    return late


def choose(wish: Wish, candidates: Mapping[str, Candidate], missing: Mapping[str, str]) -> Route:
    """Picks the device for one request.

    Args:
        candidates: every device that the wish may mean, by name.
        missing: why kinds that this host could have are absent, by kind.

    Raises:
        FailedPrecondition, Unavailable, Overloaded: what was asked for can't be had, and why.
    """
    if name := sole(wish.entries):  # as on most requests: nothing to choose, so nothing to compare
        only = candidates[name]
        if only.problem is None and _too_late(only, wish.deadline_us) is None:
            return Route(name, sole_reason(wish.entries), only.finish_us)
    problems: list[ServingError] = []
    for entry, names in wish.entries:
        meant = [candidates[name] for name in names]
        if not meant:
            problems.append(_absent(entry, missing))
            continue
        refused = refusals(meant, wish.deadline_us)
        ready = [candidate for candidate in meant if candidate.name not in refused]
        problems += sorted(refused.values(), key=_hope)
        if ready:
            best, reason = _pick(wish, ready)
            return Route(best.name, _reason(wish, entry, best, reason, meant, problems), best.finish_us)
    raise _joined(problems)


def refusals(candidates: Sequence[Candidate], deadline_us: float | None) -> dict[str, ServingError]:
    """Why a request that any of several devices may run can't be sent to some of them, by their names.

    One of them is the one that it would do the least harm on. From the others it keeps away if it made more others late there
    than it is worth itself.
    """
    refused = {c.name: problem for c in candidates if (problem := c.problem or _too_late(c, deadline_us)) is not None}
    late = {c.name: number for c in candidates if (number := made_late(c)) > WORTH}
    if late:
        least = min((late.get(c.name, 0.0) for c in candidates if _works(c)), default=0.0)
        for candidate in candidates:
            if (number := late.get(candidate.name, 0.0)) > least:
                refused.setdefault(candidate.name, _in_the_way(candidate, number))
    return refused


def _hope(problem: ServingError) -> int:
    """How much hope a problem leaves: of several devices' the most hopeful one's status counts, whatever their order."""
    return isinstance(problem, Overloaded) + 2 * isinstance(problem, Unavailable)


def _pick(wish: Wish, ready: Sequence[Candidate]) -> tuple[Candidate, str]:
    if len(ready) == 1:
        return ready[0], "only-device"
    if wish.objective != LATENCY:
        limits = [limit for limit in (wish.deadline_us, wish.target_us) if limit is not None]
        in_time = [c for c in ready if all(c.finish_us is not None and c.finish_us <= limit * (1 - MARGIN) for limit in limits)]
        if in_time:
            return min(in_time, key=lambda candidate: _expense(candidate, wish.objective)), "cheapest-in-time"
    burdens_us = [_finish_us(candidate) + delay_us(candidate) for candidate in ready]
    least_us = min(burdens_us)
    for candidate, burden_us in zip(ready, burdens_us, strict=True):
        if candidate.name == wish.last and burden_us <= least_us * (1 + HYSTERESIS):
            return candidate, "earliest"
    return ready[burdens_us.index(least_us)], "earliest"


def _reason(
    wish: Wish,
    entry: str,
    best: Candidate,
    reason: str,
    meant: Sequence[Candidate],
    problems: Sequence[ServingError],
) -> str:
    """Why, in one of the words of docs/protocol.md; `spill` where a device that was wanted more is too busy."""
    if len(wish.entries) > 1:
        return "spill" if any(isinstance(problem, Overloaded) for problem in problems) else "preference"
    if entry != AUTO:
        return "requested"
    enough_us = _service_us(best) * (1 - HYSTERESIS)
    faster = any(_works(candidate) and _service_us(candidate) < enough_us for candidate in meant)
    return "spill" if faster and reason != "cheapest-in-time" else reason


def _works(candidate: Candidate) -> bool:
    """Whether a device works, however busy it is."""
    return candidate.problem is None or isinstance(candidate.problem, Overloaded)


def _service_us(candidate: Candidate) -> float:
    return float("inf") if candidate.service_us is None else candidate.service_us


def _finish_us(candidate: Candidate) -> float:
    """A device that was never measured is tried last."""
    return float("inf") if candidate.finish_us is None else candidate.finish_us


def _expense(candidate: Candidate, objective: str) -> tuple[float, float]:
    if candidate.rate is None:
        raise FailedPrecondition(
            f"the objective '{objective}' needs {NEEDED[objective]} of device '{candidate.name}'; "
            f"set it under [devices.\"{candidate.name}\"], or ask for '{LATENCY}'"
        )
    return (candidate.added_us or 0.0) * candidate.rate, _finish_us(candidate)


def _too_late(candidate: Candidate, deadline_us: float | None) -> Overloaded | None:
    """Why a device that works isn't worth trying; None if it is."""
    if deadline_us is None or candidate.soonest_us is None or candidate.soonest_us <= deadline_us:
        return None
    return Overloaded(
        f"device '{candidate.name}' would take at least {candidate.soonest_us / 1e3:.1f} ms (predicted "
        f"{_finish_us(candidate) / 1e3:.1f} ms), and the deadline is in {max(0.0, deadline_us) / 1e3:.1f} ms"
    )


def _in_the_way(candidate: Candidate, late: float) -> Overloaded:
    """Why a request is kept away from a device for others' sake."""
    held_ms = (candidate.held_us or 0.0) / 1e3
    return Overloaded(f"device '{candidate.name}' would be held for {held_ms:.1f} ms, which would make {late:.1f} others late")


def _absent(entry: str, missing: Mapping[str, str]) -> FailedPrecondition:
    reason = why_missing(entry, missing) or "this host has no device of that name"
    return FailedPrecondition(f"device '{entry}' is not available: {reason}")


def _joined(problems: Sequence[ServingError]) -> ServingError:
    """All the reasons, with the status of the last: a new error, because one raised again and again keeps every frame."""
    text = "; ".join(dict.fromkeys(map(str, problems)))
    last = problems[-1]
    return Unavailable(text, last.pushback_ms) if isinstance(last, Unavailable) else type(last)(text)
