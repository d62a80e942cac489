"""How far predicted finish times can be relied on, learned from how many admitted requests miss their deadline."""

#: The share of the admitted requests that should be answered by their deadline.
IN_TIME = 0.97
#: How much one request moves the factor.
STEP = 0.05
#: The factor's limits.
LEAST, MOST = 1.0, 8.0


class Confidence:
    """The factor by which predictions of one model on one device are to be multiplied when a request is admitted.

    Each admitted request that misses its deadline moves the factor up by `STEP * IN_TIME`, each other one down by
    `STEP * (1 - IN_TIME)`, in proportion: it settles where `IN_TIME` of them are in time (a stochastic approximation, Robbins
    and Monro 1951).
    """

    def __init__(self) -> None:
        self.factor = LEAST

    def observe(self, *, missed: bool) -> None:
        """Takes in whether an admitted request missed its deadline."""
        change = STEP * IN_TIME if missed else -STEP * (1 - IN_TIME)
        self.factor = min(MOST, max(LEAST, self.factor * (1 + change)))
