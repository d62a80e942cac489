"""`python -m benchmarks.replicas`: three servers behind each balancer of deploy/balancers, restarted under Locust's load."""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import results
from benchmarks.cases import CASES, Case
from benchmarks.contestants import ROOT
from benchmarks.replicas import balancers, report
from benchmarks.replicas.age import Curve, observe
from benchmarks.replicas.replicas import Replica
from benchmarks.replicas.rolling import Outcome, roll

REPLICAS = 3
#: The smallest model: what is tested is the way to it.
CASE = next(case for case in CASES if case.name == "add_sub")
DRAIN_DELAY_S = 2.0
AGE_MS = 4000
#: How long the two curves of the connections' age are observed.
OBSERVED_S = 45.0


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.replicas", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="for each balancer")
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "replicas")
    chosen = parser.parse_args()
    about = results.about("benchmarks.replicas")
    outcomes: dict[str, Outcome] = {}
    for name, (balancer, program) in balancers.BALANCERS.items():
        if not balancers.available(program):
            print(f"{name}: left out, {program} isn't installed", file=sys.stderr)
            continue
        with replicas() as (folder, running), balancer(running, folder) as target:
            outcomes[name] = roll(running, target, CASE.name, chosen.requests, chosen.users, folder)
        print(f"{name}: {outcomes[name].failed} of {outcomes[name].requests} failed", file=sys.stderr)
    curves = [curve(age_ms) for age_ms in (0, AGE_MS)] if balancers.available("haproxy") else []
    report.write(chosen.output, about, outcomes, curves)
    return 0


def curve(age_ms: int) -> Curve:
    """Observes a replica that is added."""
    options = f'{{"grpc.max_connection_age_ms": {age_ms}, "grpc.max_connection_age_grace_ms": 5000}}'
    flags = (f"--grpc-options={options}",) if age_ms else ()
    with replicas(*flags) as (folder, running), balancers.connections(running, folder) as target:
        return observe(running, target, CASE.request(), age_ms, OBSERVED_S)


@contextmanager
def replicas(*flags: str, case: Case = CASE) -> Iterator[tuple[Path, list[Replica]]]:
    """A folder, and replicas over one model: all but the last one run."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        case.publish(folder / "models")
        with (folder / "servers.log").open("wb") as log:
            drain = f"--drain-delay-s={DRAIN_DELAY_S}"
            made = [Replica(index, folder / "models", log, (drain, *flags)) for index in range(REPLICAS)]
            try:
                for replica in made[:-1]:
                    replica.start()
                yield folder, made
            finally:
                for replica in made:
                    replica.end()


if __name__ == "__main__":
    sys.exit(main())
