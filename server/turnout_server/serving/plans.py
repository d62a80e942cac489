"""What follows from a request's layout, its model and its own words: worked out once for all requests that are alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import ref

from turnout_server.core.messages import InferRequest, Origin
from turnout_server.core.model_config import QueuePolicy
from turnout_server.models.deployments import Deployment
from turnout_server.models.loading import ModelVersion
from turnout_server.scheduling import routing
from turnout_server.scheduling.routing import Entries


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """How requests of one layout are served by one model version.

    It outlives that, because layouts are kept for requests to come; so it mustn't keep it loaded.

    Attributes:
        model: the version that answers, while it is there.
        device, objective: what they say, verbatim, in a parameter or in metadata.
        rows: their rows.
        outputs: the names of the outputs that they want, in the model's order.
        requested: the `device` that counts: theirs, else their model's, else the server's.
        entries: what that means, see `routing.resolve`.
        goal: the objective that counts.
        only: the one device that they may run on; empty if there are several, or none.
        priority, policy: how they may wait.
        finish_us, begin_us: how long after their arrival they must have ended, and begun; None for any time.
        origins: what their answers say of where they come from, by device and reason.
    """

    model: ref[ModelVersion]
    device: str
    objective: str
    rows: int
    outputs: tuple[str, ...]
    requested: str
    entries: Entries
    goal: str
    only: str
    priority: int
    policy: QueuePolicy
    finish_us: int | None
    begin_us: int | None
    origins: dict[tuple[str, str], Origin] = field(default_factory=dict)

    @property
    def only_reason(self) -> str:
        """Why a request went to `only`."""
        return routing.sole_reason(self.entries)

    def fits(self, request: InferRequest, model: ModelVersion) -> bool:
        """Whether it holds for a request of its layout, now that this version answers."""
        return self.model() is model and self.device == request.device and self.objective == request.objective

    def origin(self, deployment: Deployment, reason: str) -> Origin:
        """What an answer says of where it comes from."""
        model, version, device = deployment.key
        origin = self.origins.get((device, reason))
        if origin is None:
            origin = self.origins[device, reason] = Origin(model, version, device, self.device, reason, deployment.precision)
        return origin


def plan_for(
    request: InferRequest, model: ModelVersion, devices: tuple[str, ...], default_device: str, default_objective: str
) -> Plan:
    """Checks a request against a model, and says how it and those like it are served.

    Args:
        devices: every device of the server.
        default_device, default_objective: what counts where neither the request nor its model says anything.

    Raises:
        InvalidRequest: it doesn't fit the model, or names no device that there could be.
    """
    signature, configuration = model.signature, model.configuration
    rows = signature.rows_of(request)
    requested = request.device or configuration.default_device or default_device
    entries = routing.resolve(requested, devices)
    priority = configuration.queue.level_of(request.priority)
    policy = configuration.queue.policy_of(priority)
    return Plan(
        ref(model),
        request.device,
        request.objective,
        rows,
        _in_order(request.outputs, signature.output_names),
        requested,
        entries,
        request.objective or configuration.objective or default_objective,
        routing.sole(entries),
        priority,
        policy,
        request.timeout_us if policy.timeout_override else None,
        policy.effective_timeout_us(request.timeout_us),
    )


def _in_order(wanted: Sequence[str], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in wanted) if wanted else names
