"""How requests of one layout are served by one model version: worked out once, and reused for every request like it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, ref

from turnout_server.core.messages import InferRequest, Layout, Provenance
from turnout_server.core.model_config import QueuePolicy
from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion
from turnout_server.scheduling import routing
from turnout_server.scheduling.routing import Targets


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """How requests of one layout are served by one model version.

    Attributes:
        model: the version that answers; a weak reference, because plans outlive models.
        device, objective: what the requests say, verbatim.
        rows: rows per request.
        outputs: the names of the wanted outputs, in the model's order.
        requested: the `device` value that counts: the requests', else the model's, else the server's.
        targets: the devices that it means.
        effective_objective: the objective that counts.
        priority, policy: how the requests may wait.
        timeout_us, queue_timeout_us: how long after its arrival a request must be answered, and must have started; None for
            any time.
    """

    model: ref[ModelVersion]
    device: str
    objective: str
    rows: int
    outputs: tuple[str, ...]
    requested: str
    targets: Targets
    effective_objective: str
    priority: int
    policy: QueuePolicy
    timeout_us: int | None
    queue_timeout_us: int | None
    _provenances: dict[tuple[str, str], Provenance] = field(default_factory=dict)

    def fits(self, request: InferRequest, model: ModelVersion) -> bool:
        """Whether it still holds for a request of its layout."""
        return self.model() is model and self.device == request.device and self.objective == request.objective

    def provenance(self, deployment: Deployment, reason: str) -> Provenance:
        """The provenance that answers state."""
        model, version, device = deployment.key
        provenance = self._provenances.get((device, reason))
        if provenance is None:
            provenance = Provenance(model, version, device, self.device, reason, deployment.precision)
            self._provenances[device, reason] = provenance
        return provenance


class Planner:
    """Makes plans, and keeps the last one of each layout for as long as the layout lives.

    Args:
        devices: every device of the server.
        default_device, default_objective: what counts if neither the request nor its model says anything.
    """

    def __init__(self, devices: tuple[str, ...], default_device: str, default_objective: str) -> None:
        self._devices = devices
        self._default_device = default_device
        self._default_objective = default_objective
        self._plans: WeakKeyDictionary[Layout, Plan] = WeakKeyDictionary()

    def plan(self, request: InferRequest, model: ModelVersion) -> Plan:
        """How a request is served.

        Raises:
            InvalidRequest: it doesn't fit the model, or names a device that can't exist.
        """
        plan = self._plans.get(request.layout)
        if plan is None or not plan.fits(request, model):
            plan = self._plans[request.layout] = self._make(request, model)
        model.signature.check_values(request.inputs)
        return plan

    def _make(self, request: InferRequest, model: ModelVersion) -> Plan:
        signature, configuration = model.signature, model.configuration
        rows = signature.rows_of(request)
        requested = request.device or configuration.default_device or self._default_device
        priority = configuration.queue.level_of(request.priority)
        policy = configuration.queue.policy_of(priority)
        return Plan(
            model=ref(model),
            device=request.device,
            objective=request.objective,
            rows=rows,
            outputs=_in_order(request.outputs, signature.output_names),
            requested=requested,
            targets=routing.resolve(requested, self._devices),
            effective_objective=request.objective or configuration.objective or self._default_objective,
            priority=priority,
            policy=policy,
            timeout_us=request.timeout_us if policy.timeout_override else None,
            queue_timeout_us=policy.effective_timeout_us(request.timeout_us),
        )


def _in_order(wanted: Sequence[str], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in wanted) if wanted else names
