"""The question where a request would run, and the answer. Plain values only, so that both can be sent over HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from turnout_server.explain.load import Load


@dataclass(frozen=True)
class Question:
    """The request in question.

    Attributes:
        device, objective, precision, priority: as in a request; empty, or 0, if the request doesn't set it.
        deadline_us: how long from now the answer may take.
        load_per_s: also explain what a load of this many such requests per second would mean.
    """

    model: str
    version: str = ""
    rows: int = 1
    device: str = ""
    objective: str = ""
    precision: str = ""
    priority: int = 0
    deadline_us: float | None = None
    load_per_s: float | None = None


@dataclass(frozen=True)
class DeviceFacts:
    """One device, and what the request would find there.

    Attributes:
        asked: whether the request's `device` allows it.
        problem: why the request can't run there; empty if it can.
        profile: by rows, the fields of `profiles.Estimate`.
        cap: the most rows that are batched in one run; 0 if the model isn't on the device.
        cap_reason: why it isn't more.
        instances: how many of the model's runs may be in progress at once.
        waiting, running: requests of all models.
        service_us: predicted time of a run of this request alone. Here and below, None if not measured, or without a price.
        predicted_finish_us: predicted time from now to its answer.
        delay_us: predicted delay that it would impose on other requests, in total; None without other arrivals.
        cost_per_million: cost of a million such requests, in the currency of `price_per_hour`.
        energy_j: energy that the device would use for it, beyond its idle power.
        load: what the load in question would mean here.
        per_core: whether requests have a core each where enough of them wait.
        together_per_s, per_core_per_s: rows a second that were carried by one run after another on all `cores`, and by a run on
            each of them; None where that wasn't tried.
    """

    name: str
    asked: bool
    problem: str = ""
    profile: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cap: int = 0
    cap_reason: str = ""
    instances: int = 1
    waiting: int = 0
    running: int = 0
    service_us: float | None = None
    predicted_finish_us: float | None = None
    delay_us: float | None = None
    cost_per_million: float | None = None
    energy_j: float | None = None
    load: Load | None = None
    cores: int = 0
    per_core: bool = False
    together_per_s: float | None = None
    per_core_per_s: float | None = None


@dataclass(frozen=True)
class Explanation:
    """Where a request would run, and why.

    Attributes:
        requested, objective: the device and objective that count: the request's, else its model's, else the server's.
        target_us: the model's latency target.
        device, reason, predicted_us: the route; empty if there is none.
        last: the device of the last request with the same `requested`.
        problem: why there is no route.
    """

    model: str
    version: str
    rows: int
    requested: str
    objective: str
    deadline_us: float | None
    target_us: float | None
    devices: tuple[DeviceFacts, ...]
    device: str = ""
    reason: str = ""
    predicted_us: float | None = None
    last: str = ""
    problem: str = ""
