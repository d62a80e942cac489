"""Replicas are added, restarted one after the other, and taken away while Locust loads them: how many requests fail?"""

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from turnout_loadtests.sending.load import locustfile

from benchmarks.replicas.balancers import Target
from benchmarks.replicas.replicas import Replica

#: Between two changes, so that the load settles.
PAUSE_S = 2.0


@dataclass
class Outcome:
    """What Locust counted, and what was done meanwhile.

    Attributes:
        failures: failed requests by what they said.
        exits: exit statuses of the servers that were stopped.
        changes: how many replicas were started or stopped.
    """

    requests: int = 0
    failed: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    requests_per_s: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)
    changes: int = 0


def roll(replicas: Sequence[Replica], target: Target, model: str, requests: int, users: int, folder: Path) -> Outcome:
    """Runs the whole schedule under load: all but the last replica run at first, and at the end.

    The last replica is added; each is restarted; the last one is taken away. Load goes on until `requests` were answered.
    """
    outcome = Outcome()
    load = _start_load(target, model, users, folder)
    try:
        time.sleep(PAUSE_S)
        replicas[-1].start()
        for replica in replicas:
            time.sleep(PAUSE_S)
            outcome.exits.append(replica.stop())
            replica.start()
        time.sleep(PAUSE_S)
        outcome.exits.append(replicas[-1].stop())
        outcome.changes = 2 + 2 * len(replicas)
        while sum(replica.answered() for replica in replicas) < requests and load.poll() is None:
            time.sleep(0.5)
        time.sleep(PAUSE_S)
    finally:
        load.send_signal(signal.SIGTERM)  # Locust lets requests in flight finish
        load.wait(60)
    _read(outcome, folder)
    return outcome


def _start_load(target: Target, model: str, users: int, folder: Path) -> "subprocess.Popen[bytes]":
    options: dict[str, object] = {
        "--host": target.host,
        "--model": model,
        "--users": users,
        "--spawn-rate": users,
        "--stop-timeout": 30,
        "--csv": folder / "load",
        "--warm-up": 0,
    }
    if target.service_config is not None:
        options["--service-config"] = target.service_config
    pairs = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "locust", "-f", str(locustfile()), "--headless", "--only-summary", *pairs, "AutoUser"]
    with (folder / "locust.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def _read(outcome: Outcome, folder: Path) -> None:
    """Takes Locust's own counts.

    Raises:
        RuntimeError: it wrote none.
    """
    try:
        rows = _rows(folder / "load_stats.csv")
        total = next(row for row in rows if row["Name"] == "Aggregated")
    except (OSError, StopIteration):
        raise RuntimeError(f"Locust counted nothing; its log is {folder}/locust.log") from None
    outcome.requests, outcome.failed = int(total["Request Count"]), int(total["Failure Count"])
    outcome.p50_ms, outcome.p99_ms = float(total["50%"]), float(total["99%"])
    outcome.max_ms, outcome.requests_per_s = float(total["Max Response Time"]), float(total["Requests/s"])
    outcome.failures = {row["Error"]: int(row["Occurrences"]) for row in _rows(folder / "load_failures.csv")}


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))
