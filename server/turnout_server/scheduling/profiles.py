"""How long a run of n rows takes on one device: measured, kept current, and asked for predictions."""

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
        spread_us: the median distance of a run from the median.
        fastest_us: the fastest run, which nothing disturbed.
        runs: how many runs the estimate is made of.
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

    Sizes that never ran are interpolated between measured neighbours; above the largest in proportion, below the smallest as
    the smallest.

    Attributes:
        total_runs: the number of runs taken in; it only grows.
    """

    def __init__(self) -> None:
        self._estimates: dict[int, Estimate] = {}
        self.total_runs = 0

    @classmethod
    def restored(cls, saved: Mapping[str, Mapping[str, float]]) -> "Profile":
        """The profile that `saved` described.

        Raises:
            ValueError, TypeError: it doesn't describe one.
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
        return {str(rows): asdict(estimate) for rows, estimate in sorted(self._estimates.items())}

    def measure(self, rows: int, services_us: Sequence[float]) -> None:
        """Replaces the estimate of a size by the median of runs made to measure it."""
        middle_us = statistics.median(services_us)
        spread_us = statistics.median(abs(service_us - middle_us) for service_us in services_us)
        self._estimates[rows] = Estimate(middle_us, spread_us, min(services_us), len(services_us))
        self.total_runs += len(services_us)

    def observe(self, rows: int, service_us: float) -> None:
        """Takes in a run that served requests."""
        known = self._estimates.get(rows)
        self._estimates[rows] = known.after(service_us) if known else Estimate(service_us, 0.0, service_us, 1)
        self.total_runs += 1

    def runs(self, rows: int) -> int:
        """How many runs of exactly this size were taken in."""
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
