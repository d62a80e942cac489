"""Prints the server's CPU time per request without and with OpenTelemetry traces.

Run from the project's root: PYTHONPATH=. python docs/results/deployment/traces_cost.py

One client sends add/sub on two [2,16] tensors, one request after another, to a server with the default transport. The spans go
to a collector in this process, whose time isn't counted.
"""

import statistics
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil

from tests import models
from tests.servers import running
from tests.wire import request

ROUNDS, WARM_UP, REQUESTS = 5, 500, 6000
ONE_PERCENT = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
#: Flags and variables of each case.
CASES: dict[str, tuple[list[str], dict[str, str]]] = {
    "off": ([], {}),
    "1 % sampled": (["--otel"], ONE_PERCENT),
    "all sampled": (["--otel"], {}),
}


class Collector(BaseHTTPRequestHandler):
    """Takes spans and drops them."""

    def do_POST(self) -> None:
        """Reads the body, and says that all is well."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


def cpu_us(repository: Path, flags: list[str], variables: dict[str, str]) -> float:
    """The CPU time of a server per request, in microseconds."""
    ones = np.ones((2, 16), np.float32)
    message = request("add_sub", {"INPUT0": ones, "INPUT1": ones})
    with running(repository, *flags, env=variables) as server:
        process = psutil.Process(server.process.pid)
        for _ in range(WARM_UP):
            server.stub.ModelInfer(message)
        before_s = sum(process.cpu_times()[:2])
        for _ in range(REQUESTS):
            server.stub.ModelInfer(message)
        return (sum(process.cpu_times()[:2]) - before_s) / REQUESTS * 1e6


def main() -> None:
    """Prints the median and the range of each case."""
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    found: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        models.save(Path(folder), "add_sub", models.add_sub(), configuration="max_batch_size: 8")
        for _ in range(ROUNDS):
            for name, (flags, variables) in CASES.items():
                found[name].append(cpu_us(Path(folder), flags, {**endpoint, **variables}))
    for name, values in found.items():
        print(f"{name}: {statistics.median(values):.0f} us ({min(values):.0f} to {max(values):.0f})")


if __name__ == "__main__":
    main()
