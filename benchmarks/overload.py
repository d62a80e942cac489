"""`python -m benchmarks.overload`: what a server does that is offered more than it can do. Writes docs/results/overload.md.

Requests with a deadline arrive at random, as a multiple of the capacity that was measured just before. Beside them a fast
model gets a few requests a second, which must not starve. Client and server share the cores.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
from turnout_loadtests.client import UNLIMITED
from turnout_loadtests.formatting import markdown_table
from turnout_loadtests.open_loop import Outcome, Source, send_poisson
from turnout_loadtests.statistics import nearest_rank
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from benchmarks.results import about
from tests import models
from tests.servers import TRANSPORTS, running
from tests.wire import request

ROOT = Path(__file__).parents[1]
#: Iterations of the slow model: a run of about 20 ms, so that the generator has most of a core at ten times the capacity.
ITERATIONS = 14_000
#: Requests in flight while the capacity is measured, and for how long.
CLIENTS, CAPACITY_S = 4, 4.0
#: Deadline of each request, and requests a second for the fast model.
TIMEOUT_S, FAST_PER_S = 1.0, 20.0
#: The server has recovered when a request takes no longer than twice a run again.
RECOVERED = 2.0
MIB = 2**20
SLOW = request("slow", {"x": np.ones((1, 4), np.float32)})
FAST = request("fast", {"x": np.ones((1, 4), np.float32)})


@dataclass(frozen=True)
class Overload:
    """What was seen at one multiple of the capacity.

    Attributes:
        capacity: answers a second with a few requests in flight, just before.
        goodput: answers a second in time.
        admitted: the share of what wasn't refused that was answered.
        refused_p99_ms: how long a refusal took.
        fast_failed, fast_p99_ms: of the fast model.
        recovery_s: until a lone request took its usual time again.
        grown_mib: resident memory.
    """

    factor: float
    capacity: float
    goodput: float
    admitted: float
    p50_ms: float
    p99_ms: float
    refused_p99_ms: float
    fast_failed: int
    fast_p99_ms: float
    recovery_s: float
    grown_mib: float


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--factor", type=float, action="append", help="multiple of the capacity; repeat (1, 2, 10)")
    parser.add_argument("--seconds", type=float, default=60, help="length of each load (60)")
    parser.add_argument("--transport", choices=TRANSPORTS, default="completion-queue")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results", help="the report's folder (docs/results)")
    chosen = parser.parse_args()
    described = about("benchmarks.overload")
    with tempfile.TemporaryDirectory() as folder:
        models.save(Path(folder), "slow", models.lazy(ITERATIONS), configuration="max_batch_size: 1")
        models.save(Path(folder), "fast", models.add_constant(1))
        with (
            running(Path(folder), transport=chosen.transport) as server,
            grpc.insecure_channel(server.address, UNLIMITED) as way,
        ):
            process = psutil.Process(server.process.pid)
            seen = [overload(Stub(way), process, factor, chosen.seconds) for factor in chosen.factor or (1, 2, 10)]
    page = "\n".join(report(described, seen)) + "\n"
    (chosen.output / "overload.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


def overload(stub: Stub, process: psutil.Process, factor: float, seconds: float) -> Overload:
    """Offers so many times the capacity for a while."""
    capacity, run_s = measured(stub)
    before = process.memory_info().rss
    sources = [Source("slow", [SLOW], capacity * factor), Source("fast", [FAST], FAST_PER_S)]
    outcomes = send_poisson(stub, sources, seconds, TIMEOUT_S, 1)
    recovery_s = recovered(stub, run_s)
    slow, fast = ([each for each in outcomes if each.source == name] for name in ("slow", "fast"))
    codes = Counter(each.code for each in slow)
    found = Overload(
        factor=factor,
        capacity=capacity,
        goodput=codes["OK"] / seconds,
        admitted=codes["OK"] / (len(slow) - codes["RESOURCE_EXHAUSTED"]),
        p50_ms=percentile_ms(slow, "OK", 50),
        p99_ms=percentile_ms(slow, "OK", 99),
        refused_p99_ms=percentile_ms(slow, "RESOURCE_EXHAUSTED", 99),
        fast_failed=sum(each.code != "OK" for each in fast),
        fast_p99_ms=percentile_ms(fast, "OK", 99),
        recovery_s=recovery_s,
        grown_mib=(process.memory_info().rss - before) / MIB,
    )
    print(f"{found} {dict(codes)}", file=sys.stderr, flush=True)
    return found


def measured(stub: Stub) -> tuple[float, float]:
    """The capacity in answers a second, and the seconds that a lone request takes."""
    lone_s = [took_s(stub, SLOW) for _ in range(20)]
    until_s, answered = time.monotonic() + CAPACITY_S, Counter[int]()

    def ask(client: int) -> None:
        while time.monotonic() < until_s:
            stub.ModelInfer(SLOW, timeout=30)
            answered[client] += 1

    clients = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return answered.total() / CAPACITY_S, statistics.median(lone_s)


def recovered(stub: Stub, run_s: float) -> float:
    """How long it takes until a lone request takes its usual time again."""
    began_s = time.monotonic()
    while took_s(stub, SLOW) > RECOVERED * run_s:
        pass
    return time.monotonic() - began_s


def took_s(stub: Stub, message: pb.ModelInferRequest) -> float:
    """How long an answer takes, or a refusal counts as very long."""
    began_s = time.monotonic()
    try:
        stub.ModelInfer(message, timeout=30)
    except grpc.RpcError:
        return float("inf")
    return time.monotonic() - began_s


def percentile_ms(outcomes: Sequence[Outcome], code: str, percent: float) -> float:
    """A percentile of the latencies with this status; 0 if there are none."""
    latencies = [each.latency_s for each in outcomes if each.code == code]
    return nearest_rank(latencies, percent / 100) * 1e3 if latencies else 0.0


def report(described: dict[str, str], seen: Sequence[Overload]) -> list[str]:
    """The page."""
    head = [
        "offered", "capacity /s", "answered in time /s", "/ capacity", "answered of admitted", "p50", "p99", "refusals p99",
        "fast model failed", "its p99", "recovery", "memory",
    ]  # fmt: skip
    rows = [
        [
            f"{each.factor:g}x", f"{each.capacity:.0f}", f"{each.goodput:.0f}", f"{each.goodput / each.capacity:.2f}",
            f"{each.admitted:.1%}", f"{each.p50_ms:.0f} ms", f"{each.p99_ms:.0f} ms", f"{each.refused_p99_ms:.1f} ms",
            str(each.fast_failed), f"{each.fast_p99_ms:.1f} ms", f"{each.recovery_s:.2f} s", f"{each.grown_mib:+.0f} MiB",
        ]
        for each in seen
    ]  # fmt: skip
    return [
        "# More requests than a server can answer",
        "",
        *(f"- {key}: {value}" for key, value in described.items()),
        "",
        *markdown_table(head, rows),
        "",
        f"Requests have a deadline of {TIMEOUT_S:g} s and arrive at random. The capacity is measured before each load with",
        f"{CLIENTS} requests in flight; it varies on a shared machine, so a share may be above 1. Client and server share the",
        "cores, so the latencies of answers and refusals include the client's. The fast model gets",
        f"{FAST_PER_S:g} requests a second all the time.",
        "How requests are admitted: [routing.md](../routing.md#deadlines-and-admission).",
    ]


if __name__ == "__main__":
    sys.exit(main())
