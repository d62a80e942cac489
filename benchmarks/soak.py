"""`python -m benchmarks.soak`: measures how a server's memory grows over many requests."""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import load
from benchmarks.cases import CASES
from benchmarks.contestants import contestants, running
from benchmarks.reference import expected_outputs
from benchmarks.results import OURS

#: Requests in flight.
CLIENTS = 16
#: Length of one load; memory is read after each.
SECONDS = 10.0
#: The share of all requests after which caches are taken to be full.
WARM = 0.1


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, help="the number of requests (1000000)")
    chosen = parser.parse_args()
    case = CASES[0]
    (ours,) = [contestant for contestant in contestants() if contestant.name == OURS]
    with tempfile.TemporaryDirectory() as directory:
        model = case.publish(Path(directory))
        request = case.request().SerializeToString()
        with running(ours, case, model, expected_outputs(model, case)) as server:
            sent, readings = 0, [(0, server.rss_mb())]
            while sent < chosen.requests:
                sent += load.measure(server.port, request, CLIENTS, SECONDS).requests
                readings.append((sent, server.rss_mb()))
                print(f"{sent} requests: RSS {readings[-1][1]:.1f} MB", file=sys.stderr)
    warm = next(reading for reading in readings if reading[0] >= WARM * chosen.requests)
    grown_mb = (readings[-1][1] - warm[1]) / max(1, sent - warm[0]) * 1e6
    for count, rss_mb in (readings[0], warm, readings[-1]):
        print(f"RSS after {count} requests: {rss_mb:.1f} MB")
    print(f"growth: {grown_mb:+.2f} MB per million requests")


if __name__ == "__main__":
    main()
