"""`python -m simulation.engines`: simulates two engines on the same cores, with measured profiles.

`auto` is compared with either engine alone, and with a fixed engine for each model.
"""

import argparse
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from turnout_loadtests.formatting import markdown_table
from turnout_server.core.device_names import AUTO
from turnout_server.scheduling.profiles import Profile

from simulation.arrivals import Poisson, moments_s
from simulation.policies import Turnout
from simulation.service import CPU_SPREAD, Saved
from simulation.simulated_device import Request, ServiceTime, SimulatedDevice, deployment
from simulation.simulation import simulate

#: Written by `python -m benchmarks.engines table`.
PROFILES = Path(__file__).parent / "engine-profiles.json"
OUTPUT = Path(__file__).parents[1] / "docs" / "results"
HEAD = [
    "# Two engines on the same cores, simulated",
    "",
    "Service times are [measured](engines.md); queue, batches, forecasts and routes are the server's own code, in virtual",
    "time. A load is a share of what the better engine of each model carries one request at a time; models share the time",
    "equally. The deadline is five times the longest request's time. `best of each` sends every model and size to the engine",
    "that is faster for it alone, as somebody would who had measured all of them.",
    "",
]
#: A fixed engine for each model and number of rows: the one that is faster alone.
BEST_EACH = "best of each"


@dataclass(frozen=True)
class Mix:
    """Requests of several models, which share the time equally.

    Attributes:
        parts: the (model, rows of each request).
        load: a share of what the better engine of each model carries one request at a time.
        deadline_runs: the deadline, as a multiple of the longest request's time on its better engine.
    """

    name: str
    parts: tuple[tuple[str, int], ...]
    load: float
    deadline_runs: float = 5.0

    def requests(self, profiles: Mapping[str, Mapping[str, Saved]], number: int, seed: str) -> list[Request]:
        """About `number` requests in the order of arrival."""
        best_s = {part: min(_run_s(models[part[0]], part[1]) for models in profiles.values()) for part in self.parts}
        deadline_s = self.deadline_runs * max(best_s.values())
        rates = {part: self.load / len(self.parts) / best_s[part] for part in self.parts}
        duration_s = number / sum(rates.values())
        requests = [
            Request(model, rows, at_s, at_s + deadline_s, stream=place)
            for place, (model, rows) in enumerate(self.parts)
            for at_s in moments_s(Poisson(), rates[model, rows], duration_s, random.Random(f"{seed}/{self.name}/{place}"))
        ]
        return sorted(requests, key=lambda request: request.arrived_s)


_BOTH = ("encoder fp32", "encoder int8 dynamic")
MIXES = (
    Mix("one model", (("encoder fp32", 1),), 0.7),
    Mix("one model, full", (("encoder fp32", 1),), 1.0),
    Mix("alike", (("resnet50 fp32", 1), ("resnet50 int8", 1)), 0.8),
    Mix("better on one each", tuple((name, 1) for name in _BOTH), 0.7),
    Mix("better on one each, full", tuple((name, 1) for name in _BOTH), 1.0),
    Mix("by rows", (("resnet50 int8", 1), ("resnet50 int8", 8), ("encoder fp32", 8)), 0.8),
    Mix("everything", (*((name, 1) for name in _BOTH), ("resnet50 int8", 1), ("mlp fp32", 32)), 0.8),
)


def measured_profiles() -> dict[str, dict[str, Saved]]:
    """The committed profiles, by engine and model."""
    profiles: dict[str, dict[str, Saved]] = json.loads(PROFILES.read_text())["service_us"]
    return profiles


def in_time(mix: Mix, profiles: Mapping[str, Mapping[str, Saved]], number: int, seed: str) -> dict[str, float]:
    """The share of a mix's requests in time, by policy."""

    def faster(request: Request) -> str:
        return min(profiles, key=lambda name: _run_s(profiles[name][request.model], request.rows))

    asks: dict[str, Callable[[Request], str]] = {name: partial(_named, name) for name in profiles}
    asks |= {BEST_EACH: faster, AUTO: partial(_named, AUTO)}
    shares = {}
    for name, device in asks.items():
        requests = mix.requests(profiles, number, seed)
        simulate(requests, one_place(profiles, f"{seed}/{mix.name}"), Turnout(asks=device))
        shares[name] = sum(request.in_time for request in requests) / len(requests)
    return shares


def one_place(profiles: Mapping[str, Mapping[str, Saved]], seed: str) -> dict[str, SimulatedDevice]:
    """Idle engines with all models, which take turns on the same cores."""
    place: dict[str, SimulatedDevice] = {}
    for name, models in profiles.items():
        place[name] = SimulatedDevice(
            name,
            {model: deployment(model, name, saved) for model, saved in models.items()},
            {model: ServiceTime(Profile.restored(saved), CPU_SPREAD) for model, saved in models.items()},
            random.Random(f"{seed}/{name}"),
        )
    first: SimulatedDevice = next(iter(place.values()))
    for device in place.values():
        device.device_queue, device.running, device.place = first.device_queue, first.running, place
    return place


def main(arguments: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m simulation.engines", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="approximate number in each mix (20000)")
    parser.add_argument("--seed", default="1", help="seed of arrivals and service times (1)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the report's folder (docs/results)")
    chosen = parser.parse_args(arguments)
    profiles = measured_profiles()
    headings = [
        "mix",
        "models x rows",
        "load",
        *(f"{name}, % in time" for name in (*profiles, BEST_EACH, AUTO)),
        "auto / better one",
    ]
    body = []
    for mix in MIXES:
        shares = in_time(mix, profiles, chosen.requests, chosen.seed)
        better = max(shares[name] for name in profiles)
        parts = ", ".join(f"{model} x {rows}" for model, rows in mix.parts)
        figures = [f"{100 * share:.1f}" for share in shares.values()]
        body.append([mix.name, parts, f"{mix.load:g}", *figures, f"{shares[AUTO] / better:.3f}"])
    text = "\n".join([*HEAD, *markdown_table(headings, body), ""])
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "engines-simulated.md").write_text(text)
    print(text)


def _named(device: str, request: Request) -> str:
    return device


def _run_s(saved: Saved, rows: int) -> float:
    return (Profile.restored(saved).predict_us(rows) or 0.0) * 1e-6


if __name__ == "__main__":
    main()
