"""`python -m simulation`: ways to choose a device, simulated; the server's own decisions among them."""

import argparse
import sys
import time
from pathlib import Path

from benchmarks import results
from benchmarks.contestants import ROOT
from simulation import report, service
from simulation.figures import Figures
from simulation.run_all import OURS, RIVALS, against, run_all
from simulation.scenarios import SCENARIOS
from simulation.sweep import Point, sweep

#: Requests in a scenario.
REQUESTS, QUICK_REQUESTS = 20_000, 600
#: At each load of the sweep so many times fewer.
SWEEP_SHARE = 5


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"in each scenario, about ({REQUESTS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REQUESTS} requests in each scenario")
    parser.add_argument("--seed", default="1", help="of everything random (1)")
    parser.add_argument("--measure", nargs="*", choices=service.MODELS, help="measure the CPU with these models anew, or all")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="where the report goes (docs/results)")
    chosen = parser.parse_args(arguments)
    if chosen.measure is not None:
        service.measure(chosen.measure or service.MODELS)
    number = QUICK_REQUESTS if chosen.quick else chosen.requests
    cpu, where = service.measured(), service.measured_where()
    rows: list[Figures] = []
    points: list[Point] = []
    for scenario in SCENARIOS:
        began_s = time.monotonic()
        group = list(run_all(scenario, cpu, number, chosen.seed))
        rows += group
        points += sweep(scenario, cpu, number // SWEEP_SHARE, chosen.seed)
        in_time = next(row.in_time for row in group if row.policy == OURS)
        compared = f"{100 * in_time:.1f} % in time, {against(group, *RIVALS):.3f} of the best other"
        print(f"{scenario.name}: {compared} ({time.monotonic() - began_s:.0f} s)", file=sys.stderr)
    options = [f"--requests {number}", f"--seed {chosen.seed}"]
    about = {
        "command": f"python -m simulation {' '.join(options)}",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "requests in each scenario": f"about {number}, and {number // SWEEP_SHARE} at each load; the same for every policy",
        "CPU profiles": "; ".join(f"{key}: {value}" for key, value in where.items()),
        "versions": results.machine()["versions"],
    }
    print(report.write(chosen.output, about, rows, points, cpu))


if __name__ == "__main__":
    main()
