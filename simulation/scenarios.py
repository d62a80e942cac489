"""Scenarios: models, request sizes, deadlines and arrivals."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from simulation.arrivals import Arrivals, Bursty, Diurnal, Poisson, moments_s
from simulation.simulated_device import Request, capacity_rows_per_s
from simulation.simulation import Machine

MLP, RESNET, ENCODER = "mlp", "resnet50", "encoder"
ONE: Mapping[int, float] = {1: 1.0}
#: Sizes for the small model. Its requests are queued, as on a device in a device process; in the server's process small runs
#: would be inline.
SEVERAL: Mapping[int, float] = {16: 1.0, 32: 1.0}
#: A few large requests among many small ones.
SPREAD_OUT: Mapping[int, float] = {1: 50.0, 2: 20.0, 4: 15.0, 8: 10.0, 16: 5.0}


@dataclass(frozen=True)
class Stream:
    """Requests for one model with the same deadline and arrivals.

    Attributes:
        load: rows per second, as a share of the capacity of both devices together for this model alone.
        deadline_ms: counted from the arrival of a request.
        sizes: by number of rows, the relative frequency of such requests.
    """

    model: str
    load: float
    deadline_ms: float
    arrivals: Arrivals = field(default_factory=Poisson)
    sizes: Mapping[int, float] = field(default_factory=lambda: ONE)

    def rate_per_s(self, machine: Machine) -> float:
        """Requests per second."""
        mean_rows = sum(rows * share for rows, share in self.sizes.items()) / sum(self.sizes.values())
        return self.rows_per_s(machine) / mean_rows

    def rows_per_s(self, machine: Machine) -> float:
        """Rows per second."""
        return self.load * sum(capacity_rows_per_s(profiles[self.model]) for profiles in machine.profiles.values())


@dataclass(frozen=True)
class Scenario:
    """A machine and its load.

    Attributes:
        about: a description for the report.
        mixed: whether the load is such that both devices are worth using.
        gpu, cpu_factor: see simulation.Machine.
    """

    name: str
    about: str
    streams: tuple[Stream, ...]
    mixed: bool = False
    gpu: str = "large"
    cpu_factor: float = 1.0

    @property
    def load(self) -> float:
        """The load of all streams together."""
        return sum(stream.load for stream in self.streams)

    def rows_per_s(self, machine: Machine) -> float:
        """Rows per second of all streams."""
        return sum(stream.rows_per_s(machine) for stream in self.streams)

    def at(self, load: float) -> "Scenario":
        """The same scenario at another load, with every stream scaled in proportion."""
        return replace(self, streams=tuple(replace(stream, load=stream.load * load / self.load) for stream in self.streams))

    def requests(self, machine: Machine, number: int, seed: str) -> list[Request]:
        """About `number` requests in the order of arrival."""
        rates_per_s = [stream.rate_per_s(machine) for stream in self.streams]
        duration_s = number / sum(rates_per_s)
        requests = []
        for place, (stream, rate_per_s) in enumerate(zip(self.streams, rates_per_s, strict=True)):
            random_ = random.Random(f"{seed}/{self.name}/{place}")
            sizes, weights = list(stream.sizes), list(stream.sizes.values())
            for at_s in moments_s(stream.arrivals, rate_per_s, duration_s, random_):
                (rows,) = random_.choices(sizes, weights)
                requests.append(Request(stream.model, rows, at_s, at_s + stream.deadline_ms * 1e-3, stream=place))
        return sorted(requests, key=lambda request: request.arrived_s)


SCENARIOS = (
    Scenario("light", "one model at a fifth of the machine's capacity", (Stream(RESNET, 0.2, 150),)),
    Scenario("overload", "one and a half times the machine's capacity", (Stream(RESNET, 1.5, 150),)),
    Scenario(
        "bursts",
        "half of the machine's capacity on average, in peaks of three times that",
        (Stream(ENCODER, 0.5, 80, Bursty(peak=3.0, busy_s=0.5, calm_s=1.5)),),
    ),
    Scenario(
        "days",
        "a load that rises and falls between 0.1 and 1.24 of the machine's capacity",
        (Stream(RESNET, 0.67, 200, Diurnal(days=3, swing=0.85)),),
    ),
    Scenario(
        "both needed",
        "a small GPU, and a load beyond the capacity of either device alone",
        (Stream(RESNET, 0.9, 250),),
        mixed=True,
        gpu="small",
    ),
    Scenario(
        "sizes",
        "requests of 1 to 16 rows: the GPU is far better for large ones only",
        (Stream(ENCODER, 0.85, 100, sizes=SPREAD_OUT),),
        mixed=True,
    ),
    Scenario(
        "deadlines",
        "half of the requests have deadlines that the CPU can't meet, the others loose ones",
        (Stream(RESNET, 0.45, 30), Stream(RESNET, 0.45, 500)),
        mixed=True,
    ),
    Scenario(
        "models",
        "a small model that is as fast on the CPU among large ones",
        (Stream(MLP, 0.05, 10, sizes=SEVERAL), Stream(RESNET, 0.4, 150), Stream(ENCODER, 0.4, 100)),
        mixed=True,
    ),
    Scenario(
        "everything",
        "three models, tight and loose deadlines, sizes, bursts and days, on a small GPU",
        (
            Stream(MLP, 0.05, 10, Bursty(peak=3.0, busy_s=0.5, calm_s=1.5), SEVERAL),
            Stream(RESNET, 0.25, 120, Diurnal(days=3, swing=0.8)),
            Stream(RESNET, 0.2, 1000),
            Stream(ENCODER, 0.3, 250, Bursty(peak=2.5, busy_s=1.0, calm_s=2.0), SPREAD_OUT),
        ),
        mixed=True,
        gpu="small",
    ),
    Scenario(
        "slow CPU",
        "as `both needed`, but the CPU's runs take 1.6 times as long as its profiles say",
        (Stream(RESNET, 0.8, 250),),
        mixed=True,
        gpu="small",
        cpu_factor=1.6,
    ),
)
