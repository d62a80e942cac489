"""Runs a real Prometheus that scrapes running servers, and asks it."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"


def require(*programs: str) -> None:
    """Skips the test where a program of Debian's package `prometheus` is missing."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        pytest.skip(f"not installed here: {', '.join(missing)}; on Debian: apt-get install prometheus")


class Prometheus:
    """A Prometheus that listens on a port of this machine."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        with urllib.request.urlopen(f"{self._url}{path}?{urllib.parse.urlencode(parameters)}", timeout=20) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series and values that an expression has now.

        Raises:
            HTTPError: Prometheus doesn't understand it.
        """
        found = self.get("/api/v1/query", query=expression)
        result: list[dict[str, Any]] = found["result"]
        return result if found["resultType"] == "vector" else [{"value": result}]

    def value(self, expression: str) -> float:
        """The value of an expression that has only one."""
        (sample,) = self.query(expression)
        return float(sample["value"][1])

    def is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5):
                return True
        except OSError:
            return False


@contextmanager
def prometheus(folder: Path, targets: Sequence[str], labels: dict[str, str] | None = None) -> Iterator[Prometheus]:
    """A Prometheus with the shipped rules that scrapes these HOST:PORT every second; ended after the block."""
    require("prometheus")
    job = {"job_name": "turnout", "static_configs": [{"targets": list(targets), "labels": labels or {}}]}
    intervals = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration = folder / "prometheus.json"  # JSON is YAML
    configuration.write_text(json.dumps({"global": intervals, "rule_files": [str(RULES)], "scrape_configs": [job]}))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = (folder / "prometheus.log").open("w")
    flags = [
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = subprocess.Popen(["prometheus", *flags], stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "1"})
    try:
        running = Prometheus(port)
        until_s = time.monotonic() + 30
        while not running.is_up():
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < until_s, "Prometheus doesn't answer"
            time.sleep(0.1)
        yield running
    finally:
        process.terminate()
        process.wait(20)
        log.close()
