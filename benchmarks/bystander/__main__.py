"""Measures what an attack costs an innocent client: its throughput and p99, with and without, on each transport.

    python -m benchmarks.bystander [--seconds 4] [--output docs/results/bystanders.md]

The innocent client sends one small request after the other on a connection of its own. The attacker runs in another process, on
the same cores. `memory` is by how much the server's resident memory grew at its highest, divided by the bytes of one message;
a message in gzip counts as what it is inflated. `held` is the longest time for which the server's interpreter was kept from its
other threads while the attack went on.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import psutil
from turnout_proto.methods import Stub

from benchmarks.bystander import attacks
from tests import models
from tests.servers import TRANSPORTS, RunningServer, running
from tests.wire import request

INNOCENT = request("add_sub", {name: np.ones((1, 16), np.float32) for name in ("INPUT0", "INPUT1")})


class Seen(NamedTuple):
    """What the innocent client saw."""

    rate: float  # answers a second
    p99_ms: float
    failures: int


class Row(NamedTuple):
    """One attack on one transport."""

    attack: str
    transport: str
    without: Seen
    during: Seen
    amplification: float | None
    held_ms: float


def save_repository(root: Path) -> None:
    """The models that the innocent client and the attackers use."""
    models.save(root, "add_sub", models.add_sub(), configuration="max_batch_size: 8")
    models.save(root, attacks.TEXTS, models.identity("BYTES", ("n",)), configuration="max_batch_size: 0")
    models.save(root, "numbers", models.identity("INT64", ("n",)), configuration="max_batch_size: 0")
    models.save(root, attacks.FILL, models.fill())


def observe(stub: Stub, seconds: float) -> Seen:
    """Sends requests for some time."""
    times_s, failures, ends_s = [], 0, time.monotonic() + seconds
    while (started_s := time.monotonic()) < ends_s:
        try:
            stub.ModelInfer(INNOCENT, timeout=30)
        except grpc.RpcError:
            failures += 1
        times_s.append(time.monotonic() - started_s)
    elapsed_s = time.monotonic() - ends_s + seconds
    return Seen((len(times_s) - failures) / elapsed_s, float(np.percentile(times_s, 99)) * 1e3, failures)


@contextmanager
def attacking(name: str, address: str, seconds: float) -> Iterator[None]:
    """Runs an attack during the block; it must have ended soon after its time."""
    command = [sys.executable, "-m", "benchmarks.bystander.attacks", name, address, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacker:
        assert attacker.stdout is not None
        attacker.stdout.readline()  # it has made its message
        yield
        try:
            attacker.wait(60)
        except subprocess.TimeoutExpired:
            attacker.kill()


def measure(name: str, transport: str, server: RunningServer, seconds: float, notes: Path) -> Row:
    """One row of the table.

    Args:
        notes: where the server notes how long its interpreter was held.
    """
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = Stub(channel)
        observe(stub, 0.5)
        without = observe(stub, seconds)
        before = memory_of(server)
        forget_peak(server)
        began_s = time.monotonic()
        with attacking(name, server.address, seconds + 0.5):
            during = observe(stub, seconds)
        grown = peak_of(server) - before
    size = len(attacks.MESSAGES[name]()) if name in attacks.MESSAGES else 0
    return Row(name, transport, without, during, grown / size if size > attacks.MB else None, held_ms(notes, began_s))


def held_ms(notes: Path, since_s: float) -> float:
    """The longest time that a server noted since then; both processes read the same clock."""
    lines = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
    return max((float(ms) for at_s, ms in lines if float(at_s) >= since_s), default=0.0)


def memory_of(server: RunningServer) -> int:
    """The server's resident memory, in bytes."""
    resident: int = psutil.Process(server.process.pid).memory_info().rss
    return resident


def forget_peak(server: RunningServer) -> None:
    """Makes the kernel measure the peak anew (Linux, proc(5): clear_refs)."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def peak_of(server: RunningServer) -> int:
    """The most resident memory since then, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def page(rows: Sequence[Row], seconds: float) -> str:
    """The result as Markdown."""
    lines = [
        "# What an innocent client sees of an attack",
        "",
        f"`python -m benchmarks.bystander --seconds {seconds:g}` on {datetime.date.today()}: {platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores, load average at the end {os.getloadavg()[0]:.1f}; Python "
        f"{platform.python_version()}, grpcio {grpc.__version__}.",
        "Attacker, server and client share the cores. The first two rows of each transport are what the others are to be",
        "compared with: work that doesn't touch the server, and messages that gRPC receives and nobody reads.",
        "",
        "`memory` is by how much the server's resident memory grew at most while the attacker sent message after message,",
        "divided by the bytes of one. What gRPC takes alone is in the row of messages that nobody reads.",
        "",
        "`held` is the longest time for which the interpreter was kept from the server's other threads.",
        "",
        "| attack | transport | answers/s without | with | kept | p99 without | with | failed | memory | held |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = "" if row.amplification is None else f"{row.amplification:.1f}x"
        lines.append(
            f"| {row.attack} | {row.transport} | {row.without.rate:.0f} | {row.during.rate:.0f} | "
            f"{row.during.rate / row.without.rate:.0%} | {row.without.p99_ms:.1f} ms | {row.during.p99_ms:.1f} ms | "
            f"{row.during.failures} | {memory} | {row.held_ms:.1f} ms |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measures all attacks; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--only", choices=attacks.NAMES, nargs="*", default=attacks.NAMES)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as scratch:
        save_repository(Path(root))
        notes = Path(scratch) / "held.txt"
        for transport in TRANSPORTS:
            for name in options.only:
                with running(
                    Path(root), transport=transport, module="benchmarks.bystander.watched", env={"HELD_FILE": str(notes)}
                ) as server:
                    rows.append(measure(name, transport, server, options.seconds, notes))
                    print(page(rows[-1:], options.seconds).splitlines()[-1], flush=True)
    if options.output:
        options.output.write_text(page(rows, options.seconds), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
