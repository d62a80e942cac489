"""A way to run a model on a CPU: on one core, several runs at a time."""

from dataclasses import dataclass, field
from typing import NamedTuple

from turnout_server.devices.sessions import Session
from turnout_server.scheduling import batching
from turnout_server.scheduling.profiles import Profile

#: How much more must get done to have the model loaded once more, with a single thread.
GAIN = 1.1


class Rates(NamedTuple):
    """Rows a second that are carried in two ways: by one run after another on all cores, and by a run on each of them."""

    together: float
    per_core: float

    @property
    def pays(self) -> bool:
        """Whether a run on each core carries so much more that the model is loaded for it."""
        return self.per_core >= GAIN * self.together


@dataclass(eq=False)
class PerCore:
    """A model whose runs take one core each.

    Attributes:
        session: the model with a single thread.
        cores: how many of its runs may be in progress at once.
        profile: how long a run takes while each of the other cores has one, too.
        max_rows: the most rows that a run may have.
        least_requests: from how many requests on this has them done sooner than runs on all cores.
        effective_max_batch: the most rows worth batching, by what runs have taken so far.
    """

    session: Session
    cores: int
    profile: Profile
    max_rows: int = 1
    least_requests: int = 2
    effective_max_batch: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        self._review()

    def predict_us(self, rows: int) -> float | None:
        """The expected service time in microseconds of a run of so many rows."""
        return self.profile.predict_us(rows)

    def likely_us(self, rows: int) -> float | None:
        """The service time that about 90 % of such runs stay below."""
        return self.profile.likely_us(rows)

    def observe(self, rows: int, service_us: float) -> None:
        """Takes in a run that served requests."""
        self.profile.observe(rows, service_us)
        if self.profile.total_runs % batching.REVIEW_RUNS == 0:
            self._review()

    def _review(self) -> None:
        self.effective_max_batch = batching.best_rows(self.profile.settled_us, self.max_rows)
