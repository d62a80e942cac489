"""How long a run of n rows takes on one device: measured, kept current, and asked for predictions."""

from bisect import bisect_left

#: How much one new run moves the estimate.
WEIGHT = 0.1


class Profile:
    """Service time of one (model version, device) as a function of the rows executed together.

    Sizes that were never run are predicted from their measured neighbours: linearly between two, in proportion beyond the
    largest, and as the smallest below it.
    """

    def __init__(self) -> None:
        self._service_us: dict[int, float] = {}

    def observe(self, rows: int, service_us: float) -> None:
        """Takes in one run; outliers move the estimate by `WEIGHT` of twice its value at most."""
        known = self._service_us.get(rows)
        if known is None:
            self._service_us[rows] = service_us
        else:
            self._service_us[rows] = known + WEIGHT * (min(service_us, 3 * known) - known)

    def predict_us(self, rows: int) -> float | None:
        """The expected service time in microseconds; None before the first observation."""
        sizes = sorted(self._service_us)
        if not sizes:
            return None
        at = bisect_left(sizes, rows)
        if at == 0:
            return self._service_us[sizes[0]]
        low = sizes[at - 1]
        if at == len(sizes):
            return self._service_us[low] * rows / low
        high = sizes[at]
        share = (rows - low) / (high - low)
        return self._service_us[low] * (1 - share) + self._service_us[high] * share
