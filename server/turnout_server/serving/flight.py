"""One request from its arrival to its end."""

from dataclasses import dataclass

from turnout_server.core.messages import Done, InferRequest
from turnout_server.core.metrics import Key
from turnout_server.models.model_version import ModelVersion
from turnout_server.scheduling.routing import Route
from turnout_server.serving.inline import InlineRunner
from turnout_server.serving.job import Job
from turnout_server.serving.plans import Plan


@dataclass(slots=True, eq=False)
class Flight:
    """A request in flight.

    Attributes:
        model: the version that answers.
        inline: runs very short jobs in the thread that received the request; None in any other thread.
        route, job: where it runs now; replaced once if its device is lost.
        routed_s: when that was decided, on the monotonic clock.
        lost: the device that was lost with the request in it; empty if none was.
        ran: whether it was running there.
        deadline_s: when the answer must be there, on the monotonic clock; None for any time.
        start_by_s: when the run must have started, on the monotonic clock; None for any time.
    """

    request: InferRequest
    done: Done
    model: ModelVersion
    inline: InlineRunner | None = None
    route: Route | None = None
    routed_s: float = 0.0
    deadline_s: float | None = None
    start_by_s: float | None = None
    job: Job | None = None
    lost: str = ""
    ran: bool = False
    cancelled: bool = False

    @property
    def key(self) -> Key:
        """The series that its metrics belong to."""
        return self.model.name, str(self.model.version), self.route.device if self.route else ""

    def apply(self, plan: Plan) -> None:
        """Sets the times by which the request must have started and ended."""
        self.deadline_s = self._earlier_s(plan.timeout_us)
        self.start_by_s = self._earlier_s(plan.queue_timeout_us)

    def cancel(self) -> None:
        """The client is gone."""
        self.cancelled = True
        if self.job is not None:
            self.job.cancel()

    def _earlier_s(self, timeout_us: int | None) -> float | None:
        """The earlier of the client's deadline and a timeout that starts at the request's arrival."""
        deadline_s = self.request.deadline_s
        if timeout_us is None:
            return deadline_s
        expires_s = self.request.arrived_s + timeout_us * 1e-6
        return expires_s if deadline_s is None else min(deadline_s, expires_s)
