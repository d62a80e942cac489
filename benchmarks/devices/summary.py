"""The summary of a measurement, and the medians of several."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import inf

from turnout_loadtests.open_loop import Outcome
from turnout_loadtests.statistics import nearest_rank


@dataclass(frozen=True)
class Summary:
    """One load in one round, or the medians of several rounds.

    Attributes:
        load: requests per second that were due.
        goodput: answers per second within the target. The first `target_s` are left out: queues still grow.
        p50_ms, p99_ms: latencies of answered requests.
        sent_p99_ms: latency of all requests, infinite for those that failed.
        share_b: the share of the answers that came from the second device.
        refused, expired, failed: shares of all requests: RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, any other failure.
        error: median of |predicted - actual| / actual.
        server_cores, client_cores, other_cores: the cores that the server, this client and all other processes used.
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


def summarise(outcomes: Sequence[Outcome], seconds: float, target_s: float, second_device: str) -> Summary:
    """The summary of a load that was sent for `seconds`."""
    answered = [outcome for outcome in outcomes if outcome.code == "OK"]
    codes = Counter(outcome.code for outcome in outcomes)
    latencies_s = [outcome.latency_s for outcome in answered]
    all_s = latencies_s + [inf] * (len(outcomes) - len(answered))
    refused, expired = codes["RESOURCE_EXHAUSTED"], codes["DEADLINE_EXCEEDED"]
    errors = [abs(a.predicted_us - a.actual_us) / a.actual_us for a in answered if a.predicted_us]
    return Summary(
        load=len(outcomes) / seconds,
        goodput=sum(a.latency_s <= target_s <= a.due_s + a.latency_s <= seconds for a in answered) / (seconds - target_s),
        p50_ms=_percentile_ms(latencies_s, 0.50),
        p99_ms=_percentile_ms(latencies_s, 0.99),
        sent_p99_ms=_percentile_ms(all_s, 0.99),
        share_b=sum(answer.device == second_device for answer in answered) / max(1, len(answered)),
        refused=refused / len(outcomes),
        expired=expired / len(outcomes),
        failed=(len(outcomes) - len(answered) - refused - expired) / len(outcomes),
        error=statistics.median(errors) if errors else 0.0,
    )


def median(rounds: Sequence[Summary]) -> Summary:
    """The median of each field."""
    return Summary(*map(statistics.median, zip(*(astuple(each) for each in rounds), strict=True)))


def _percentile_ms(latencies_s: Sequence[float], quantile: float) -> float:
    return nearest_rank(latencies_s, quantile) * 1e3 if latencies_s else 0.0
