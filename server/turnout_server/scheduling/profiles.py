"""Service time of runs on one device by their rows: measured, updated with every run, and used for predictions."""

import statistics
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter

#: The weight of one new run in the moving average.
SMOOTHING = 0.1
#: Runs after which an estimate is reliable.
SETTLED_RUNS = 5


_SERVICE_US, _FASTEST_US = attrgetter("service_us"), attrgetter("fastest_us")


@dataclass(frozen=True)
class Estimate:
    """Service time of runs of one size, in microseconds.

    Attributes:
        service_us: the expected service time of the next run.
        spread_us: the typical distance of a run from `service_us`: at first, the median absolute deviation.
        fastest_us: the fastest run, taken to be undisturbed.
        runs: the number of runs behind the estimate.
    """

    service_us: float
    spread_us: float
    fastest_us: float
    runs: int

    def after(self, service_us: float) -> "Estimate":
        """The estimate after one more run; an outlier counts as three times the expected time at most."""
        kept_us = min(service_us, 3 * self.service_us)
        return Estimate(
            service_us=self.service_us + SMOOTHING * (kept_us - self.service_us),
            spread_us=self.spread_us + SMOOTHING * (abs(kept_us - self.service_us) - self.spread_us),
            fastest_us=min(service_us, self.fastest_us),
            runs=self.runs + 1,
        )


class Profile:
    """Service time of one model version on one device, as a function of the batch size in rows.

    A size that never ran is interpolated between its measured neighbours. Above the largest, time is proportional to rows;
    below the smallest, it is that of the smallest.

    Attributes:
        total_runs: the number of runs recorded.
    """

    def __init__(self) -> None:
        self._estimates: dict[int, Estimate] = {}
        self.total_runs = 0

    @classmethod
    def restored(cls, saved: Mapping[str, Mapping[str, float]]) -> "Profile":
        """The profile of which `saved` is the result.

        Raises:
            ValueError, TypeError: it isn't the result of `saved`.
        """
        profile = cls()
        for rows, fields in saved.items():
            estimate = Estimate(**fields)  # type: ignore[arg-type]
            if int(rows) < 1 or not estimate.service_us > 0 or not estimate.fastest_us > 0:
                raise ValueError(f"{rows} rows in {estimate.service_us} us")
            profile._estimates[int(rows)] = estimate
        return profile

    def saved(self) -> dict[str, dict[str, float]]:
        """The estimates by rows, ready for JSON."""
        return {str(rows): asdict(estimate) for rows, estimate in sorted(self._estimates.copy().items())}

    def measure(self, rows: int, services_us: Sequence[float]) -> None:
        """Replaces the estimate of a size with runs that were made to measure it."""
        middle_us = statistics.median(services_us)
        spread_us = statistics.median(abs(service_us - middle_us) for service_us in services_us)
        self._estimates[rows] = Estimate(middle_us, spread_us, min(services_us), len(services_us))
        self.total_runs += len(services_us)

    def observe(self, rows: int, service_us: float) -> None:
        """Records a run that served requests."""
        known = self._estimates.get(rows)
        self._estimates[rows] = known.after(service_us) if known else Estimate(service_us, 0.0, service_us, 1)
        self.total_runs += 1

    def runs(self, rows: int) -> int:
        """How many runs of exactly this size were recorded."""
        return self._estimates[rows].runs if rows in self._estimates else 0

    def settled_us(self, rows: int) -> float | None:
        """The service time of runs of exactly this size; None before `SETTLED_RUNS` of them."""
        estimate = self._estimates.get(rows)
        return estimate.service_us if estimate is not None and estimate.runs >= SETTLED_RUNS else None

    def predict_us(self, rows: int) -> float | None:
        """The expected service time in microseconds; None before the first run."""
        return self._at(rows, _SERVICE_US)

    def likely_us(self, rows: int) -> float | None:
        """The service time that about 90 % of runs stay below: two spreads above the expected one."""
        return self._at(rows, lambda estimate: estimate.service_us + 2 * estimate.spread_us)

    def fastest_us(self, rows: int) -> float | None:
        """The service time of the fastest run."""
        return self._at(rows, _FASTEST_US)

    def _at(self, rows: int, field: Callable[[Estimate], float]) -> float | None:
        if (exact := self._estimates.get(rows)) is not None:
            return field(exact)
        return _interpolated({size: field(estimate) for size, estimate in self._estimates.copy().items()}, rows)


def _interpolated(known_us: Mapping[int, float], rows: int) -> float | None:
    sizes = sorted(known_us)
    if not sizes:
        return None
    at = bisect_left(sizes, rows)
    if at == 0:
        return known_us[sizes[0]]
    low = sizes[at - 1]
    if at == len(sizes):
        return known_us[low] * rows / low
    high = sizes[at]
    share = (rows - low) / (high - low)
    return known_us[low] * (1 - share) + known_us[high] * share
