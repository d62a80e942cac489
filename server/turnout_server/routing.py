"""Where a request runs: a pure decision over what the devices look like at this moment.

A named device is a contract: the request runs there or fails. Only `auto` and a preference list may move it. The statuses
are settled in docs/protocol.md, "Status for devices".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from turnout_server.devicenames import AUTO, entries_of, kind_of
from turnout_server.errors import FailedPrecondition, InvalidRequest, ServingError, Unavailable


@dataclass(frozen=True)
class Candidate:
    """One device as a request for one model meets it.

    Attributes:
        problem: why the model can't run there now; None where it can.
        predicted_us: when a request sent there now would be finished, in microseconds from now; None if never measured.
    """

    name: str
    kind: str
    problem: ServingError | None = None
    predicted_us: float | None = None


@dataclass(frozen=True)
class Route:
    """The device picked and the reason: one of the closed set that is also a metric label."""

    device: str
    reason: str
    predicted_us: float | None = None


def choose(requested: str, candidates: Sequence[Candidate], missing: dict[str, str]) -> Route:
    """Picks the device for one request.

    Args:
        requested: `auto`, a device, a kind, or a comma-separated order of preference.
        candidates: every device of this server.
        missing: why kinds that this host could have are absent, by kind.

    Raises:
        InvalidRequest: a malformed name; the text lists what exists.
        FailedPrecondition, Unavailable: what was asked for can't be had, and why.
    """
    try:
        entries = entries_of(requested, {candidate.kind for candidate in candidates})
    except ValueError as error:
        exist = ", ".join(candidate.name for candidate in candidates)
        raise InvalidRequest(f"{error}; this server has: {exist}; or ask for '{AUTO}'") from None
    problems: list[ServingError] = []
    for entry in entries:
        matching = _matching(entry, candidates)
        ready = [candidate for candidate in matching if candidate.problem is None]
        if ready:
            return _pick(entry, ready, len(entries) > 1)
        problems.append(_problem(entry, matching, missing))
    raise _joined(problems)


def _matching(entry: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    exact = [candidate for candidate in candidates if candidate.name == entry]
    return exact or [candidate for candidate in candidates if entry in (AUTO, candidate.kind)]


def _pick(entry: str, ready: list[Candidate], is_list: bool) -> Route:
    # A device that was never measured is tried last: None sorts behind every prediction.
    best = min(ready, key=lambda c: (c.predicted_us is None, c.predicted_us or 0.0))
    if is_list:
        reason = "preference"
    elif entry == AUTO:
        reason = "only-device" if len(ready) == 1 else "earliest"
    else:
        reason = "requested"
    return Route(best.name, reason, best.predicted_us)


def _problem(entry: str, matching: list[Candidate], missing: dict[str, str]) -> ServingError:
    if matching:
        problems = [candidate.problem for candidate in matching if candidate.problem is not None]
        return _joined(problems)
    reason = missing.get(kind_of(entry), "this host has no device of that name")
    return FailedPrecondition(f"device '{entry}' is not available: {reason}")


def _joined(problems: list[ServingError]) -> ServingError:
    """All the reasons, with the status of the last: a new error, because one raised again and again keeps every frame."""
    text = "; ".join(map(str, problems))
    last = problems[-1]
    return Unavailable(text, last.pushback_ms) if isinstance(last, Unavailable) else type(last)(text)
