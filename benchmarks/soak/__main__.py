"""`python -m benchmarks.soak`: whether a server holds its memory, descriptors and threads while all kinds of clients use it.

Writes docs/results/soak.md. A second, short run is of a server that leaks on purpose, and must be found out; in a third, models
are loaded over and over. The exit status is 1 if the leak is not found, or if the real server grows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psutil
from turnout_loadtests.formatting import markdown_table
from turnout_proto import inference_pb2 as pb

from benchmarks import load
from benchmarks.results import about
from benchmarks.soak.traffic import KINDS
from benchmarks.soak.verdict import MAX_GROWTH_MIB, PER_LOADS, PER_REQUESTS, Reading, growth_mib, problems, warm
from tests import models
from tests.servers import TRANSPORTS, RunningServer, running
from tests.wire import request

ROOT = Path(__file__).parents[2]
#: Requests in flight from the generator that makes most of the requests.
CLIENTS = 8
#: How long the leaking server runs, as a share of the real one.
CONTROL = 0.2
MIB = 2**20


def save_repository(root: Path) -> None:
    """Models that are run inline, batched, in a process of their own, and with text."""
    models.save(root, "adds", models.add_constant(1), configuration="max_batch_size: 16")
    models.save(root, "copy", models.identity("FP32", ("batch", "n")), configuration="max_batch_size: 16")
    models.save(root, "texts", models.identity("BYTES", ("n",)))
    models.save(root, "counts", models.countdown())


@contextmanager
def traffic(address: str, seconds: float) -> Iterator[None]:
    """Runs one client of each kind."""
    with ExitStack() as stack:
        for kind in KINDS.keys() - {"dies once"}:
            command = [sys.executable, "-m", "benchmarks.soak.traffic", kind, address, str(seconds)]
            process = subprocess.Popen(command, cwd=ROOT)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield


def answered_by(server: RunningServer) -> int:
    """Requests that ended until now."""
    with urllib.request.urlopen(f"{server.monitoring}/status", timeout=30) as page:
        status = json.load(page)
    return sum(device["answered"] + sum(device["failures"].values()) for m in status["models"] for device in m["devices"])


def reading(server: RunningServer, started_s: float, count: int) -> Reading:
    """The server and its processes now, after so many requests or loads."""
    process = psutil.Process(server.process.pid)
    every = [process, *process.children(recursive=True)]
    return Reading(
        count,
        time.monotonic() - started_s,
        sum(each.memory_info().rss for each in every) / MIB,
        sum(each.num_fds() for each in every),
        sum(each.num_threads() for each in every),
    )


def soak(module: str, transport: str, seconds: float, window_s: float) -> list[Reading]:
    """Readings of a server after each window of traffic."""
    message = request("adds", {"x": np.ones((1, 16), np.float32)}).SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        save_repository(Path(folder))
        with running(Path(folder), transport=transport, module=module) as server:
            started_s, readings = time.monotonic(), []
            port = int(server.address.rpartition(":")[2])
            with traffic(server.address, seconds):
                while time.monotonic() - started_s < seconds:
                    load.measure(port, message, CLIENTS, window_s)
                    readings.append(reading(server, started_s, answered_by(server)))
                    print(f"{transport}: {readings[-1]}", file=sys.stderr, flush=True)
    return readings


def load_again(transport: str, loads: int, between: int) -> list[Reading]:
    """Readings of a server that loads models over and over: one that runs in process, and one in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        save_repository(Path(folder))
        flags = ["--model-control-mode=explicit", "--load-model=*", "--allow-control"]
        with running(Path(folder), *flags, transport=transport) as server:
            started_s, readings = time.monotonic(), []
            for number in range(1, loads + 1):
                name = "counts" if number % 10 == 0 else "adds"
                server.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=60)
                if number % between == 0:
                    readings.append(reading(server, started_s, number))
                    print(f"{transport}: {readings[-1]}", file=sys.stderr, flush=True)
    return readings


def row(name: str, readings: Sequence[Reading], per: int = PER_REQUESTS) -> list[str]:
    """The cells of one run."""
    first, last = warm(readings)[0], readings[-1]
    return [
        name,
        f"{last.at_s / 60:.0f}",
        f"{last.requests:,}",
        f"{first.rss_mib:.0f} to {last.rss_mib:.0f}",
        f"{growth_mib(readings, per):+.1f}",
        f"{first.descriptors} to {last.descriptors}",
        f"{first.threads} to {last.threads}",
        "; ".join(problems(readings, per)) or "holds",
    ]


def main() -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="how long (30)")
    parser.add_argument("--window", type=float, default=10, help="seconds between two readings (10)")
    parser.add_argument("--loads", type=int, default=10_000, help="how often models are loaded anew (10000)")
    parser.add_argument("--transport", choices=TRANSPORTS, default="completion-queue")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results", help="the report's folder (docs/results)")
    chosen = parser.parse_args()
    described = about("benchmarks.soak")
    real = soak("turnout_server", chosen.transport, chosen.minutes * 60, chosen.window)
    control = soak(
        "benchmarks.soak.leaking", chosen.transport, max(chosen.minutes * 60 * CONTROL, 6 * chosen.window), chosen.window
    )
    loaded = load_again(chosen.transport, chosen.loads, max(1, chosen.loads // 50))
    head = ["server", "minutes", "requests", "MiB after the warm-up", "MiB a million", "descriptors", "threads", "verdict"]
    found, noticed = [*problems(real), *problems(loaded, PER_LOADS)], problems(control)
    page = [
        "# A server under all kinds of clients for long\n",
        *(f"- {key}: {value}" for key, value in described.items()),
        "",
        *markdown_table(head, [row(chosen.transport, real), row("one that leaks on purpose", control)]),
        "",
        f"Growth is the slope of a line through the readings after the first quarter; {MAX_GROWTH_MIB:g} MiB are allowed.",
        "Besides the generator there is one client of each kind in benchmarks/soak/traffic.py: asking for anything, giving",
        "up too early, cancelling, making mistakes, and dying with its requests open. The second server keeps 64 bytes of each",
        "request, which the test must notice.",
        "",
        "## Loading models over and over",
        "",
        *markdown_table(
            ["server", "minutes", "loads", "MiB after the warm-up", f"MiB per {PER_LOADS:,}", *head[5:]],
            [row(chosen.transport, loaded, PER_LOADS)],
        ),
        "",
        "Every tenth load is of a model that runs in a process of its own; the memory is that of all processes.",
    ]
    (chosen.output / "soak.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    print("\n".join(page))
    if not noticed:
        print("the leak on purpose was not noticed", file=sys.stderr)
    return 1 if found or not noticed else 0


if __name__ == "__main__":
    sys.exit(main())
