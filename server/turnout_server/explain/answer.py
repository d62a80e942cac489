"""Why a request would run where it would: the question, and the answer. Plain values only, so that they can travel."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from turnout_server.explain.load import Load


@dataclass(frozen=True)
class Question:
    """Where would such a request run?

    Attributes:
        device, objective, precision, priority: as a request would say it; empty, or 0, where it wouldn't.
        deadline_us: how long from now the answer may take.
        load_per_s: so many such requests a second are to be considered, too.
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
    """One device as the request would meet it.

    Attributes:
        asked: whether the request lets it run there.
        problem: why it can't; empty where it can.
        profile: by rows, what runs took: the fields of `profiles.Estimate`.
        cap: the most rows that are joined in one run; 0 where the model isn't on the device.
        cap_reason: why no more.
        instances: how many of the model's runs may go on at once.
        waiting, running: requests of all models.
        service_us: a run of its own. None here and below where nothing was measured, or nobody gave a price.
        finish_us: when its answer would be there, from now.
        delay_us: what it would make others wait, all together; None where nobody else comes.
        cost_per_million: of a million such requests, in the currency of `price_per_hour`.
        energy_j: what the device would draw for it beyond what it draws idle.
        load: what the load that was asked about would mean here.
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
    finish_us: float | None = None
    delay_us: float | None = None
    cost_per_million: float | None = None
    energy_j: float | None = None
    load: Load | None = None


@dataclass(frozen=True)
class Explanation:
    """Where a request would run, and why.

    Attributes:
        requested, objective: what would decide, whoever said so: the request, its model or the server.
        target_us: how soon the model's requests should be answered.
        device, reason, predicted_us: the route; empty where there is none.
        last: the device that the last such request went to.
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
