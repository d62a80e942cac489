"""`python -m benchmarks.soak`: what a server's memory does over many requests."""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import load
from benchmarks.cases import CASES
from benchmarks.contestants import contestants, message, running
from benchmarks.reference import session_of
from benchmarks.results import OURS

#: Requests in flight.
CLIENTS = 16
#: Length of one measurement; memory is read after each.
SECONDS = 10.0
#: The share of the requests after which caches count as full.
WARM = 0.1


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, help="how many to send (1000000)")
    chosen = parser.parse_args()
    case = CASES[0]
    (ours,) = [contestant for contestant in contestants() if contestant.name == OURS]
    with tempfile.TemporaryDirectory() as directory:
        model = case.publish(Path(directory))
        session = session_of(str(model))
        names = [output.name for output in session.get_outputs()]
        expected = dict(zip(names, session.run(names, case.request()), strict=True))
        del session
        with running(ours, case, model, expected) as server:
            sent, readings = 0, [(0, server.rss_mb())]
            while sent < chosen.requests:
                sent += load.measure(server.port, message(case).SerializeToString(), CLIENTS, SECONDS).requests
                readings.append((sent, server.rss_mb()))
                print(f"{sent} requests: RSS {readings[-1][1]:.1f} MB", file=sys.stderr)
    warm = next(reading for reading in readings if reading[0] >= WARM * chosen.requests)
    grown_mb = (readings[-1][1] - warm[1]) / max(1, sent - warm[0]) * 1e6
    for count, rss_mb in (readings[0], warm, readings[-1]):
        print(f"RSS after {count} requests: {rss_mb:.1f} MB")
    print(f"grown by {grown_mb:+.2f} MB per million requests")


if __name__ == "__main__":
    main()
