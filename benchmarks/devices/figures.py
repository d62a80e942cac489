"""What a load came to: one measurement, and the medians of several."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import ceil, inf

from benchmarks.devices.client import Answer


@dataclass(frozen=True)
class Figures:
    """One load in one round, or the medians of several.

    Attributes:
        load: requests a second that were due.
        goodput: answers a second that came within the target, once so long has passed: queues are as long as they get by then.
        p50_ms, p99_ms: of the answered.
        sent_p99_ms: of all that were sent, where one that failed took for ever.
        share_b: of the answers, how many came from the second device.
        refused, expired, failed: of all that were sent: RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, anything else.
        error: median of |predicted - actual| / actual.
        server_cores, client_cores, other_cores: what the server, this client and everything else on the machine took meanwhile.
    """

    load: float
    goodput: float
    p50_ms: float
    p99_ms: float
    sent_p99_ms: float
    share_b: float
    refused: float
    expired: float
    failed: float
    error: float
    server_cores: float = 0.0
    client_cores: float = 0.0
    other_cores: float = 0.0


def summary(answers: Sequence[Answer], seconds: float, target_s: float, second_device: str) -> Figures:
    """The figures of a load that was sent for so many seconds."""
    answered = [answer for answer in answers if answer.status == "OK"]
    statuses = Counter(answer.status for answer in answers)
    latencies_s = sorted(answer.latency_s for answer in answered)
    everyone_s = latencies_s + [inf] * (len(answers) - len(answered))
    refused, expired = statuses["RESOURCE_EXHAUSTED"], statuses["DEADLINE_EXCEEDED"]
    errors = [abs(a.predicted_us - a.actual_us) / a.actual_us for a in answered if a.predicted_us]
    return Figures(
        load=len(answers) / seconds,
        goodput=sum(a.latency_s <= target_s <= a.due_s + a.latency_s <= seconds for a in answered) / (seconds - target_s),
        p50_ms=percentile(latencies_s, 50) * 1e3,
        p99_ms=percentile(latencies_s, 99) * 1e3,
        sent_p99_ms=percentile(everyone_s, 99) * 1e3,
        share_b=sum(answer.device == second_device for answer in answered) / max(1, len(answered)),
        refused=refused / len(answers),
        expired=expired / len(answers),
        failed=(len(answers) - len(answered) - refused - expired) / len(answers),
        error=statistics.median(errors) if errors else 0.0,
    )


def median(rounds: Sequence[Figures]) -> Figures:
    """Of each figure by itself."""
    return Figures(*map(statistics.median, zip(*(astuple(figures) for figures in rounds), strict=True)))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent don't exceed; 0 of nothing."""
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0
