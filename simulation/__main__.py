"""`python -m simulation`: simulates policies that choose a device, Turnout's among them, and reports their goodput."""

import argparse
import sys
import time
from pathlib import Path

from turnout_loadtests import environment

from simulation import report, service
from simulation.results import Result
from simulation.run_all import BASELINES, OURS, relative_goodput, run_all
from simulation.scenarios import SCENARIOS
from simulation.sweep import Point, sweep

#: Requests in each scenario.
REQUESTS, QUICK_REQUESTS = 20_000, 600
#: The sweep has this many times fewer requests at each load.
SWEEP_DIVISOR = 5
#: The folder of committed reports.
OUTPUT = Path(__file__).parents[1] / "docs" / "results"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"approximate number in each scenario ({REQUESTS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REQUESTS} requests in each scenario")
    parser.add_argument("--seed", default="1", help="seed of arrivals and service times (1)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the report's folder (docs/results)")
    chosen = parser.parse_args(arguments)
    number = QUICK_REQUESTS if chosen.quick else chosen.requests
    cpu, provenance = service.cpu_profiles(), service.cpu_provenance()
    rows: list[Result] = []
    points: list[Point] = []
    for scenario in SCENARIOS:
        began_s = time.monotonic()
        group = list(run_all(scenario, cpu, number, chosen.seed))
        rows += group
        points += sweep(scenario, cpu, number // SWEEP_DIVISOR, chosen.seed)
        in_time = next(row.in_time for row in group if row.policy == OURS)
        compared = f"{100 * in_time:.1f} % in time, {relative_goodput(group, BASELINES):.3f} of the best other policy"
        print(f"{scenario.name}: {compared} ({time.monotonic() - began_s:.0f} s)", file=sys.stderr)
    options = [f"--requests {number}", f"--seed {chosen.seed}"]
    versions = environment.describe(("turnout", "numpy")).versions
    about = {
        "command": f"python -m simulation {' '.join(options)}",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "requests in each scenario": f"about {number}, and {number // SWEEP_DIVISOR} at each load; the same for every policy",
        "CPU profiles": "; ".join(f"{key}: {value}" for key, value in provenance.items()),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    print(report.write(chosen.output, about, rows, points, cpu))


if __name__ == "__main__":
    main()
