"""Which device runs a request: a pure decision over a forecast for each device.

A named device is a contract: the request runs there or fails. Only `auto` and a preference list may choose. docs/protocol.md,
"Status for devices", lists the statuses; docs/routing.md explains the model with a worked example.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from turnout_server.core.device_names import AUTO, entries_of, kind_of
from turnout_server.core.errors import FailedPrecondition, InvalidRequest, Overloaded, ServingError, Unavailable
from turnout_server.scheduling import standing
from turnout_server.scheduling.arrivals import ArrivalRate
from turnout_server.scheduling.standing import StandingQueue

#: The objectives of `auto`.
LATENCY, COST, ENERGY = "latency", "cost", "energy"
OBJECTIVES = (LATENCY, COST, ENERGY)
#: The reasons of routes.
REASONS = ("requested", "only-device", "earliest", "cheapest-in-time", "preference", "spill", "retried")
#: The settings that a device needs before an objective can compare it.
NEEDED = {COST: "price_per_hour", ENERGY: "idle_w and busy_w"}

#: Another device must be sooner by this share than the one chosen last before the choice changes.
HYSTERESIS = 0.1
#: A cheaper device must be expected to finish with this share of the time left. Predictions err, so without it half of the
#: requests would be late on a cheap device that is filled to the limit.
SAFETY_MARGIN = 0.1
#: A request that can run elsewhere may make this many others miss their deadline: as many as itself.
MAX_DEADLINE_MISSES = 1.0


class Targets(NamedTuple):
    """The devices that a `device` value names.

    Attributes:
        entries: (entry, devices that it means), in order of preference.
        only: the one device that is meant; empty if there are several, or none.
        only_reason: the route reason of requests that go to `only`.
    """

    entries: tuple[tuple[str, tuple[str, ...]], ...]
    only: str = ""
    only_reason: str = ""


class Forecast(NamedTuple):
    """What would happen to a request that was sent to a device now. Times are in microseconds from now.

    Attributes:
        device: the device's name.
        unavailable: why the request can't run there now; None if it can.
        wait_us: until the runs in progress and the others queued before the request are done; None, as the other times, if the
            model was never measured there.
        service_us: the runs of requests like it that wait before it, and its own.
        added_us: how much longer the device would be busy because of it.
        alone_us, fastest_us: a run of the request alone, as expected, and at its fastest.
        rate: what an hour of the device costs by the request's objective; None if nobody set it.
        occupancy_us: the longest time for which the request would hold the device; None if the request has no choice.
        arrivals: requests that are at least as urgent and arrive at the device meanwhile.
        caution: what a predicted finish is to be multiplied by, where a request has to wait: so that most are in time.
        stands: whether the queue stands: more is offered than can be done.
        place: the hardware that the device shares with others; empty if it has its own.
        overtaken: requests that wait at the place and would go after it; 0 where no other device shares the hardware.
    """

    device: str
    unavailable: ServingError | None = None
    wait_us: float | None = None
    service_us: float = 0.0
    added_us: float = 0.0
    alone_us: float = 0.0
    fastest_us: float = 0.0
    rate: float | None = None
    occupancy_us: float | None = None
    arrivals: Sequence[ArrivalRate] = ()
    caution: float = 1.0
    stands: bool = False
    place: str = ""
    overtaken: int = 0

    @property
    def measured(self) -> bool:
        """Whether anything is known about how long the model's runs take there."""
        return self.wait_us is not None

    @property
    def predicted_finish_us(self) -> float | None:
        """When the request would be finished; None if never measured."""
        return None if self.wait_us is None else self.wait_us + self.service_us

    @property
    def queued_us(self) -> float:
        """By how much that is later than if nothing else was there."""
        return max(0.0, (self.predicted_finish_us or 0.0) - self.alone_us)

    @property
    def earliest_finish_us(self) -> float | None:
        """The same if everything until then went as fast, in proportion, as the model's fastest run."""
        finish_us = self.predicted_finish_us
        return finish_us if finish_us is None or not self.alone_us else finish_us * self.fastest_us / self.alone_us


class Route(NamedTuple):
    """The chosen device, and the reason: one of a closed set that is also a metric label."""

    device: str
    reason: str
    predicted_us: float | None = None


class Preferences(NamedTuple):
    """What a request asks of its device.

    Attributes:
        targets: the devices that it may run on.
        objective: what decides between several.
        deadline_us: microseconds from now; a device that can't finish by then is as good as none.
        target_us: microseconds from now; a cheaper device is preferred only if it finishes by then.
        last: the device chosen for the previous request like it.
    """

    targets: Targets
    objective: str = LATENCY
    deadline_us: float | None = None
    target_us: float | None = None
    last: str = ""


@lru_cache(maxsize=1024)
def resolve(requested: str, devices: tuple[str, ...]) -> Targets:
    """The devices that a `device` value means; an exact name takes precedence over a kind.

    Args:
        requested: `auto`, a device, a kind, or a comma-separated preference list of these.
        devices: every device of this server.

    Raises:
        InvalidRequest: a malformed name; the text lists what exists.
    """
    try:
        names = entries_of(requested, {kind_of(name) for name in devices})
    except ValueError as error:
        raise InvalidRequest(f"{error}; this server has: {', '.join(devices)}; or ask for '{AUTO}'") from None
    entries = tuple((entry, _meant(entry, devices)) for entry in names)
    if len(entries) == 1 == len(entries[0][1]):
        return Targets(entries, entries[0][1][0], "only-device" if entries[0][0] == AUTO else "requested")
    return Targets(entries)


def _meant(entry: str, devices: tuple[str, ...]) -> tuple[str, ...]:
    return (entry,) if entry in devices else tuple(name for name in devices if entry in (AUTO, kind_of(name)))


def why_missing(name: str, missing: Mapping[str, str]) -> str | None:
    """Why this host lacks a device, or a kind of device; None if nothing is known."""
    return missing.get(name) or missing.get(kind_of(name))


def wait_us(remaining_us: Sequence[float], ahead_us: float, instances: int) -> float:
    """How long a request waits, in microseconds.

    Args:
        remaining_us: the remaining time of each run in progress.
        ahead_us: the runs of everything queued before it.
        instances: how many runs may be in progress at once.
    """
    return (sum(remaining_us) + ahead_us) / instances if ahead_us or len(remaining_us) >= instances else 0.0


def imposed_delay_us(forecast: Forecast) -> float:
    """The total delay that a request imposes on others: those that it overtakes, and those that arrive before it is finished.

    Where devices share hardware, a request that is sent to the slower one is due to start earlier, and so goes before some
    that wait for the faster one; each of them waits `added_us` longer.

    Those that arrive before the device would have been free wait `added_us` longer. Those that arrive after that wait half as
    long on average. Without this term a long run would go to a slow idle device for a small gain, and block many short ones.
    """
    finish_us, added_us, per_s = forecast.predicted_finish_us, forecast.added_us, 0.0
    if finish_us is None:
        return 0.0
    for rate in forecast.arrivals:
        per_s += rate.per_s
    return added_us * (forecast.overtaken + per_s * 1e-6 * (finish_us - added_us / 2))


def expected_deadline_misses(forecast: Forecast) -> float:
    """How many of the requests that arrive at a device while a request holds it will miss their deadline.

    Runs aren't preempted: an arrival with less slack than the run has left misses its deadline.
    """
    occupancy_us, misses = forecast.occupancy_us, 0.0
    if occupancy_us is not None:
        for per_s, slack_us in forecast.arrivals:
            if slack_us < occupancy_us:
                misses += per_s * 1e-6 * (occupancy_us - slack_us)
    return misses


def choose(preferences: Preferences, forecasts: Mapping[str, Forecast], missing: Mapping[str, str]) -> Route:
    """Picks the device for one request.

    Args:
        forecasts: one for every device that the request may run on, by name.
        missing: why this host lacks devices, by kind or name.

    Raises:
        FailedPrecondition, Unavailable, Overloaded: no device that was asked for can take it; the text has all reasons.
    """
    targets = preferences.targets
    if only := targets.only:  # the usual case: nothing to compare
        forecast = forecasts[only]
        if forecast.unavailable is None and _too_late(forecast, preferences.deadline_us) is None:
            return Route(only, targets.only_reason, forecast.predicted_finish_us)
    reasons: list[ServingError] = []
    for entry, names in targets.entries:
        meant = [forecasts[name] for name in names]
        if not meant:
            reasons.append(_absent(entry, missing))
            continue
        refused = refusals(meant, preferences.deadline_us)
        ready = [forecast for forecast in meant if forecast.device not in refused]
        reasons += sorted(refused.values(), key=_hope)
        if ready:
            best, reason = _pick(preferences, ready)
            reason = _reason(preferences, entry, best, reason, meant, reasons)
            return Route(best.device, reason, best.predicted_finish_us)
    raise _combined(reasons)


def refusals(forecasts: Sequence[Forecast], deadline_us: float | None) -> dict[str, ServingError]:
    """Why a request that may run on any of several devices shouldn't be sent to some of them, by device.

    A request stays away from a device where it would make more than `MAX_DEADLINE_MISSES` others miss their deadline, except
    from the one where it does the least harm. It also stays away from one where it would only be in time by overtaking:
    a faster device on the same hardware is too late, and requests wait that would go after it.
    """
    refused = {f.device: reason for f in forecasts if (reason := f.unavailable or _too_late(f, deadline_us)) is not None}
    if refused:
        late = [f for f in forecasts if f.place and f.device in refused and f.unavailable is None]
        ready = [f for f in forecasts if f.place and f.device not in refused]
        behind = [f for f in ready if any(_is_in_the_way_of(f, faster) for faster in late)]
        refused |= {forecast.device: _overtakes(forecast) for forecast in behind}
    misses = {f.device: number for f in forecasts if (number := expected_deadline_misses(f)) > MAX_DEADLINE_MISSES}
    if misses:
        least = min((misses.get(f.device, 0.0) for f in forecasts if _works(f)), default=0.0)
        for forecast in forecasts:
            if (number := misses.get(forecast.device, 0.0)) > least:
                refused.setdefault(forecast.device, _in_the_way(forecast, number))
    return refused


def _is_in_the_way_of(forecast: Forecast, faster: Forecast) -> bool:
    """Whether a request that a device refused would take that device's time all the same, on a slower one that shares it."""
    same = faster.place == forecast.place and faster.alone_us < forecast.alone_us
    return same and (forecast.overtaken > 0 or faster.stands)


def watch(
    forecasts: Iterable[Forecast],
    standing_of: Callable[[str], StandingQueue],
    deadline_us: float,
    now_s: float,
    *,
    refused: bool,
) -> None:
    """Tells the queues that a request with a deadline may have waited in how long that would have been.

    Args:
        standing_of: the queue of the request's model on a device, by the device's name.
        refused: whether the request was refused because no device would be in time.
    """
    for forecast in forecasts:
        if forecast.measured:
            limit_us = standing.limit_us(deadline_us, forecast.alone_us)
            standing_of(forecast.device).observe(now_s, forecast.queued_us, limit_us, refused=refused)


def _hope(reason: ServingError) -> int:
    """Orders reasons by how soon a retry may help: the most hopeful one decides the status."""
    return isinstance(reason, Overloaded) + 2 * isinstance(reason, Unavailable)


def _pick(preferences: Preferences, ready: Sequence[Forecast]) -> tuple[Forecast, str]:
    if len(ready) == 1:
        return ready[0], "only-device"
    if preferences.objective != LATENCY:
        limits = [limit for limit in (preferences.deadline_us, preferences.target_us) if limit is not None]
        in_time = [f for f in ready if all(_finish_us(f) <= limit * (1 - SAFETY_MARGIN) for limit in limits)]
        if in_time:
            return min(in_time, key=lambda forecast: _expense(forecast, preferences.objective)), "cheapest-in-time"
    burdens_us = [_finish_us(forecast) + imposed_delay_us(forecast) for forecast in ready]
    least_us = min(burdens_us)
    for forecast, burden_us in zip(ready, burdens_us, strict=True):
        if forecast.device == preferences.last and burden_us <= least_us * (1 + HYSTERESIS):
            return forecast, "earliest"
    return ready[burdens_us.index(least_us)], "earliest"


def _reason(
    preferences: Preferences,
    entry: str,
    best: Forecast,
    reason: str,
    meant: Sequence[Forecast],
    reasons: Sequence[ServingError],
) -> str:
    """The route reason as docs/protocol.md defines it; `spill` if a preferred or faster device is too busy."""
    if len(preferences.targets.entries) > 1:
        return "spill" if any(isinstance(each, Overloaded) for each in reasons) else "preference"
    if entry != AUTO:
        return "requested"
    enough_us = _alone_us(best) * (1 - HYSTERESIS)
    faster = any(_works(forecast) and _alone_us(forecast) < enough_us for forecast in meant)
    return "spill" if faster and reason != "cheapest-in-time" else reason


def _works(forecast: Forecast) -> bool:
    """Whether a device works, however busy it is."""
    return forecast.unavailable is None or isinstance(forecast.unavailable, Overloaded)


def _alone_us(forecast: Forecast) -> float:
    return forecast.alone_us if forecast.measured else float("inf")


def _finish_us(forecast: Forecast) -> float:
    """The predicted finish; infinite if never measured, so that such a device is tried last."""
    finish_us = forecast.predicted_finish_us
    return float("inf") if finish_us is None else finish_us


def _expense(forecast: Forecast, objective: str) -> tuple[float, float]:
    if forecast.rate is None:
        raise FailedPrecondition(
            f"the objective '{objective}' needs {NEEDED[objective]} of device '{forecast.device}'; "
            f"set it under [devices.\"{forecast.device}\"], or ask for '{LATENCY}'"
        )
    return forecast.added_us * forecast.rate, _finish_us(forecast)


def _too_late(forecast: Forecast, deadline_us: float | None) -> Overloaded | None:
    """Why a device that works can't meet the deadline; None if it may."""
    if deadline_us is None or forecast.wait_us is None:
        return None
    idle = forecast.queued_us == 0.0  # then it may be tried
    needed_us = (forecast.earliest_finish_us or 0.0) if idle else _finish_us(forecast) * forecast.caution
    if needed_us <= deadline_us:
        return _too_long(forecast, deadline_us) if forecast.stands else None
    least = "at least" if idle else "up to"
    return Overloaded(
        f"device '{forecast.device}' would take {least} {_time(needed_us)} (predicted {_time(_finish_us(forecast))}), "
        f"and the deadline is in {_time(max(0.0, deadline_us))}"
    )


def _time(us: float) -> str:
    return f"{us:.3g} us" if 0 < us < 999.5 else f"{us / 1e3:.1f} ms"


def _too_long(forecast: Forecast, deadline_us: float) -> Overloaded | None:
    """Why a request isn't to wait in a queue that stands, though it would be in time; None if it may."""
    wait_us, limit_us = forecast.queued_us, standing.limit_us(deadline_us, forecast.alone_us)
    if wait_us <= limit_us:
        return None
    return Overloaded(
        f"device '{forecast.device}' is offered more than it can do: a request would wait {wait_us / 1e3:.1f} ms, and until "
        f"that is over up to {limit_us / 1e3:.1f} ms are allowed of this one's {deadline_us / 1e3:.1f} ms"
    )


def _in_the_way(forecast: Forecast, misses: float) -> Overloaded:
    """Why a request is kept off a device for the sake of others."""
    held_ms = (forecast.occupancy_us or 0.0) / 1e3
    return Overloaded(
        f"device '{forecast.device}' would be held for {held_ms:.1f} ms, which would make {misses:.1f} others late"
    )


def _overtakes(forecast: Forecast) -> Overloaded:
    """Why a request isn't sent to a slower device because the faster one is too late."""
    if not forecast.overtaken:
        return Overloaded(
            f"device '{forecast.device}' shares its hardware with a faster one that is offered more than it can do"
        )
    return Overloaded(f"device '{forecast.device}' would only be in time before {forecast.overtaken} others that wait")


def _absent(entry: str, missing: Mapping[str, str]) -> FailedPrecondition:
    reason = why_missing(entry, missing) or "this host has no device of that name"
    return FailedPrecondition(f"device '{entry}' is not available: {reason}")


def _combined(reasons: Sequence[ServingError]) -> ServingError:
    """One error with every reason and the status of the last; a new object, because a re-raised one keeps its frames alive."""
    text = "; ".join(dict.fromkeys(map(str, reasons)))
    last = reasons[-1]
    return Unavailable(text, last.pushback_ms) if isinstance(last, Unavailable) else type(last)(text)
