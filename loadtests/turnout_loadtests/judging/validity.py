"""Whether the numbers of a cell may be used. Checked before anything is concluded from them, in a fixed order.

A cell is VALID; LIMITED, if the device may be faster than measured, so that its rate is a lower bound; or INVALID, with the
first reason that was found. Remarks on a valid cell say what a reader should know.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from turnout_loadtests.formatting import three_digits
from turnout_loadtests.judging.cells import INVALID, LIMITED, VALID, Cell, answers_needed
from turnout_loadtests.payloads import split_precision
from turnout_loadtests.sending.load import OPEN
from turnout_loadtests.sending.samples import UNSTATED
from turnout_loadtests.statistics import differ_by_chance

#: How the reasons begin of what may go better another time.
REPEATABLE = ("disturbed", "not steady")
DISTURBED, WRONG_DEVICE, OVERLOADED = REPEATABLE[0], "asked for", "overloaded"
MAX_FAILURES = MAX_DROPPED = 0.01  # a p99 can't be told if more than that have no latency
#: A load at a rate is kept up with if this share of what was offered was answered in the same time.
MIN_ACHIEVED = 0.98
IN_FLIGHT_TOLERANCE = 0.1
MIN_IN_FLIGHT = 0.5
MAX_PART_RATIO = 1.25
#: Work of others and stolen time: up to the first share of the cores it is ignored, beyond the second nothing can be said.
#: Between them the device may be faster by what it lost.
IGNORED_LOST_PERCENT, MAX_LOST_PERCENT = 10.0, 50.0
#: Pressure is used where the system doesn't say who used its cores.
MAX_PRESSURE_PERCENT = 25.0
MAX_CLIENT_CPU = 0.85
MAX_CLIENT_WAIT = 0.10
MAX_OF_CEILING = 0.70
MAX_FLOOR_SHARE = 0.5
MAX_LAG_SHARE = 0.1
#: A sender that costs less than this share of the latency doesn't limit anything, however busy it is.
MIN_HEADROOM = 1.1


@dataclass(frozen=True)
class Floor:
    """What client, network and server cost without an inference: measured by calling ServerLive.

    Attributes:
        p50_ms: of one call at a time.
        per_s: calls per second, with many in flight.
    """

    p50_ms: float
    per_s: float


@dataclass(frozen=True)
class Setting:
    """What a cell is judged by, beside itself.

    Attributes:
        floor: None if it couldn't be measured.
        shares_cores: the senders run on cores that the device computes on.
        cores: of the machine, for senders and device together.
        devices: names of the server's devices, as far as they are known. Where one is called as a kind is, as `cpu` is, its
            name means this one only.
    """

    floor: Floor | None = None
    shares_cores: bool = False
    cores: int = 1
    devices: frozenset[str] = frozenset()


class _Invalid(Exception):
    """Why the numbers can't be used."""


def judged(cell: Cell, setting: Setting) -> Cell:
    """The cell with its state, reasons and headroom."""
    remarks: list[str] = []
    try:
        for check in CHECKS:
            remarks += check(cell, setting)
    except _Invalid as reason:
        return replace(cell, state=INVALID, reasons=[str(reason)], headroom=None)
    limits, headroom = client_limits(cell, setting.floor), 1.0
    sending = _headroom_of_sending(cell) if limits else 1.0
    lost = _lost_percent(cell)
    if lost > IGNORED_LOST_PERCENT:
        limits.append(f"others took {lost:.0f} % of the cores' time")
        headroom /= 1 - lost / 100
    if setting.shares_cores:
        share = min(0.9, cell.client.cpu * cell.client.processes / setting.cores)
        remarks.append(f"the senders took {share:.0%} of the cores that the device computes on: its figures are at least")
        headroom /= 1 - share
    if overload := overloaded([cell]):
        if cell.dropped > MAX_DROPPED * (cell.requests + cell.dropped):
            why = f"{DISTURBED}: {limits[0]}, and {overload}" if limits else f"{OVERLOADED}: {overload}"
            return replace(cell, state=INVALID, reasons=[why], headroom=None)
        remarks.append(f"{OVERLOADED}: {overload}")
    state = LIMITED if limits else VALID
    return replace(cell, state=state, reasons=[*limits, *remarks], headroom=None if sending is None else headroom * sending)


def _few_failures(cell: Cell, _: Setting) -> list[str]:
    """The share of requests that failed, with what the server said."""
    if not cell.requests:
        raise _Invalid(
            f"no request began in the {cell.duration_s:.3g} s measured: one takes longer than that; measure for longer"
        )
    if not cell.failures:
        return []
    text = f"{cell.failures} of {cell.requests} requests failed{_texts(cell)}"
    if cell.failure_share > MAX_FAILURES:
        raise _Invalid(text)
    return [text]


def _right_device(cell: Cell, setting: Setting) -> list[str]:
    """Who answered, against who was asked."""
    asked, precision = split_precision(cell.device)
    if precision and set(cell.precisions) - {precision}:
        raise _Invalid(f"{WRONG_DEVICE} {precision}, answered in {', '.join(cell.precisions)}")
    wrong = {device: count for device, count in cell.answered_by.items() if not _is_meant(device, asked, setting.devices)}
    if not wrong:
        return []
    if set(wrong) == {UNSTATED}:
        raise _Invalid(f"the server doesn't say which device answered, so this may not be {cell.device}; ask for auto")
    said = ", ".join(f"{count} of {cell.answers} by {device}" for device, count in wrong.items())
    raise _Invalid(f"{WRONG_DEVICE} {cell.device}, answered {said}")


def _in_flight_as_planned(cell: Cell, _: Setting) -> list[str]:
    """Little's law: requests in flight are rate x latency, and in a closed load as many as planned."""
    mean, latency_ms = cell.in_flight_mean, cell.service.mean_ms
    if latency_ms is None or cell.duration_s <= 0:
        return []  # found by the check of the number of answers
    edge = latency_ms / 1e3 / cell.duration_s  # a window cuts off requests at both ends
    by_law = cell.requests / cell.duration_s * latency_ms / 1e3
    if abs(mean - by_law) > (IN_FLIGHT_TOLERANCE + edge) * max(mean, by_law) + 0.05 and cell.in_flight_end <= 2 * mean + 2:
        raise _Invalid(f"{mean:.3g} requests were in flight, but rate x latency is {by_law:.3g}: the records miss some")
    if cell.arrival != OPEN and mean > (1 + IN_FLIGHT_TOLERANCE) * cell.in_flight:
        raise _Invalid(f"{mean:.3g} requests were in flight, not the planned {cell.in_flight}")
    if cell.arrival != OPEN and mean < MIN_IN_FLIGHT * cell.in_flight:
        raise _Invalid(f"only {mean:.3g} of the planned {cell.in_flight} requests were in flight")
    return []


def _enough_answers(cell: Cell, _: Setting) -> list[str]:
    """As many answers as a rate needs; a request that takes longer than the window has none."""
    if cell.requests_per_s is not None and cell.service.p50_ms is not None:
        return []
    needed = answers_needed(cell.in_flight if cell.arrival != OPEN else 1)
    longest = f"; one takes up to {cell.service.max_ms / 1e3:.3g} s" if cell.service.max_ms else ""
    raise _Invalid(
        f"{cell.answers} answers in {cell.duration_s:.3g} s, where a rate needs {needed}{longest}: measure for longer"
    )


def _steady(cell: Cell, _: Setting) -> list[str]:
    """The same rate in each part of the window, but for chance."""
    rates = cell.part_rates
    counts = [round(rate * cell.duration_s / len(rates)) for rate in rates]
    if max(rates) > MAX_PART_RATIO * min(rates) and not differ_by_chance(counts, cell.scatter):
        raise _Invalid(f"not steady: {', '.join(map(three_digits, rates))} requests/s in the thirds of its window")
    return []


def _undisturbed(cell: Cell, _: Setting) -> list[str]:
    """Stolen time, work of others and pressure while the cell ran."""
    use = cell.machine
    lost = _lost_percent(cell)
    if lost > MAX_LOST_PERCENT:
        stolen = f", and the hypervisor {use.steal_percent:.0f} %" if (use.steal_percent or 0.0) >= 1 else ""
        raise _Invalid(f"{DISTURBED}: other processes took {use.other_work_percent or 0.0:.0f} % of the cores' time{stolen}")
    if use.other_work_percent is None and (use.pressure_percent or 0.0) > MAX_PRESSURE_PERCENT:
        raise _Invalid(f"{DISTURBED}: tasks waited for a processor {use.pressure_percent:.0f} % of the time")
    return []


def _lost_percent(cell: Cell) -> float:
    """The share of the cores' time that other processes and the hypervisor took while the cell ran; 0 if that isn't known."""
    return (cell.machine.other_work_percent or 0.0) + (cell.machine.steal_percent or 0.0)


CHECKS: tuple[Callable[[Cell, Setting], list[str]], ...] = (
    _few_failures,
    _right_device,
    _in_flight_as_planned,
    _enough_answers,
    _steady,
    _undisturbed,
)


def overloaded(cells: Sequence[Cell]) -> str:
    """How a device fell behind a load at a rate, in these rounds together; empty if it didn't, but for chance.

    Answers in a window differ from what was due in it by the requests in flight at both of its ends.
    """
    cells = [cell for cell in cells if cell.arrival == OPEN and cell.duration_s > 0]
    requests, dropped = sum(cell.requests for cell in cells), sum(cell.dropped for cell in cells)
    if dropped:
        return f"{dropped} of {requests + dropped} requests weren't sent, because {cells[0].in_flight} were in flight"
    duration_s = sum(cell.duration_s for cell in cells)
    ended = sum(sum(cell.part_rates) * cell.duration_s / len(cell.part_rates) for cell in cells if cell.part_rates)
    late = requests - sum(cell.failures for cell in cells) - ended
    by_chance = 3 * math.sqrt(2 * sum(cell.in_flight_mean for cell in cells))
    if late <= (1 - MIN_ACHIEVED) * requests + by_chance:
        return ""
    answered, offered = three_digits(ended / duration_s), three_digits(requests / duration_s)
    return f"{answered} of {offered} requests/s were answered: it takes longer the longer the load lasts"


def client_limits(cell: Cell, floor: Floor | None) -> list[str]:
    """Why sending may have been the limit, not the device; nothing if the server accounts for nearly all of the latency."""
    headroom = _headroom_of_sending(cell)
    if headroom is not None and headroom < MIN_HEADROOM:
        return []
    client, found = cell.client, []
    if client.cpu > MAX_CLIENT_CPU:
        found.append(f"each sending process used {client.cpu:.0%} of a core")
    if client.wait > MAX_CLIENT_WAIT:
        found.append(f"the senders waited for a processor {client.wait:.0%} of the time")
    if floor and cell.requests_per_s is not None and cell.requests_per_s > MAX_OF_CEILING * floor.per_s:
        found.append(f"{cell.requests_per_s:.0f} requests/s of the {floor.per_s:.0f} that the senders can do without inference")
    p50_ms = cell.service.p50_ms
    if floor and cell.is_single_stream and p50_ms is not None and floor.p50_ms > MAX_FLOOR_SHARE * p50_ms:
        found.append(f"{floor.p50_ms:.3g} ms of its {p50_ms:.3g} ms are what a call takes without inference")
    if cell.arrival != OPEN and cell.in_flight_mean < (1 - IN_FLIGHT_TOLERANCE) * cell.in_flight:
        found.append(
            f"{cell.in_flight_mean:.3g} of {cell.in_flight} requests were in flight: the senders took time between them"
        )
    limit_ms = cell.target_ms or cell.response.p50_ms
    if client.lag_p99_ms is not None and limit_ms and client.lag_p99_ms > max(MAX_LAG_SHARE * limit_ms, 2.0):
        found.append(f"one request in a hundred was sent {client.lag_p99_ms:.3g} ms late or later")
    return found


def _headroom_of_sending(cell: Cell) -> float | None:
    """By which factor the rate could be higher if sending cost nothing: at most latency / time that the server states."""
    mean_ms, server_us = cell.service.mean_ms, cell.server.total_mean_us
    if not mean_ms or not server_us:
        return None
    return max(1.0, mean_ms * 1e3 / server_us)


def _is_meant(device: str, asked: str, devices: frozenset[str]) -> bool:
    """Whether a request for `asked` may be answered by `device`."""
    for entry in (entry.strip() for entry in asked.split(",")):
        by_kind = entry not in devices and device.partition(":")[0] == entry
        if entry in ("", "auto", device) or by_kind:
            return True
    return False


def _texts(cell: Cell) -> str:
    texts = sorted(cell.failure_texts.items(), key=lambda item: -item[1])[:2]
    return f": {'; '.join(text for text, _ in texts)}" if texts else ""
