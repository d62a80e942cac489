"""Mixes of models on one server whose engines share the cores: the requests in time on either engine, and on `auto`."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from turnout_loadtests.client import UNLIMITED
from turnout_loadtests.open_loop import Source, send_poisson
from turnout_loadtests.payloads import infer_request
from turnout_proto.methods import Stub

from benchmarks.contestants import ROOT, await_ready, free_port
from benchmarks.engines.table import Cell
from benchmarks.engines.variants import Variant

AUTO = "auto"
#: By name, the (model, rows) of a mix. Each gets the same share of the time that the mix would take on its better engine.
MIXES: Mapping[str, Sequence[tuple[str, int]]] = {
    "better on one each": (("encoder", 1), ("encoder-int8-dynamic", 1)),
    "better on one": (("encoder", 1), ("encoder-int8", 1)),
    "alike": (("resnet50", 1), ("resnet50-int8", 1)),
    "rows": (("encoder", 1), ("encoder-int8-dynamic", 8), ("resnet50-int8", 1)),
}
#: The load, as a share of what the better engine of each model could carry one request at a time.
LOAD = 0.9
#: The deadline of every request of a mix, as a multiple of its longest request's time on that one's better engine.
DEADLINE_RUNS = 5


@dataclass(frozen=True)
class Measured:
    """One mix on one device, or on `auto`, in one round.

    Attributes:
        in_time: the share of the requests that were answered by their deadline.
        shares: of the answers, by the device that gave them.
    """

    mix: str
    device: str
    requests: int
    in_time: float
    shares: Mapping[str, float]


def measure(root: Path, variants: Sequence[Variant], cells: Sequence[Cell], rounds: int, seconds: float) -> list[Measured]:
    """Every mix on every engine and on `auto`, in turns.

    Args:
        cells: the time of each model on each engine of the server.
    """
    by_name = {variant.name: variant for variant in variants}
    engines = list(dict.fromkeys(cell.engine for cell in cells))
    results = []
    with serving(root) as port, grpc.insecure_channel(f"127.0.0.1:{port}", UNLIMITED) as channel:
        for number in range(rounds):
            for mix, parts in MIXES.items():
                best_s = {part: min(_run_s(cells, by_name[part[0]], part[1], engine) for engine in engines) for part in parts}
                deadline_s = DEADLINE_RUNS * max(best_s.values())
                for device in (*engines, AUTO)[:: 1 if number % 2 == 0 else -1]:
                    sources = [
                        Source(
                            name,
                            [infer_request(name, by_name[name].tensors(rows), device)],
                            LOAD / len(parts) / best_s[name, rows],
                        )
                        for name, rows in parts
                    ]
                    outcomes = send_poisson(Stub(channel), sources, seconds, deadline_s, number)
                    answers = [outcome.device for outcome in outcomes if outcome.code == "OK"]
                    in_time = sum(each.code == "OK" and each.latency_s <= deadline_s for each in outcomes)
                    shares = {name: answers.count(name) / max(1, len(answers)) for name in engines}
                    results.append(Measured(mix, device, len(outcomes), in_time / max(1, len(outcomes)), shares))
    return results


def _run_s(cells: Sequence[Cell], variant: Variant, rows: int, engine: str) -> float:
    wanted = variant.case.name, variant.precision, rows, engine
    return next(c.run_ms for c in cells if (c.model, c.precision, c.rows, c.engine) == wanted) * 1e-3


@contextmanager
def serving(root: Path) -> Iterator[int]:
    """Runs a server with the devices that it finds, and every model; yields its port."""
    port = free_port()
    flags = [f"--model-repository={root}", f"--grpc-port={port}", "--metrics-port=0", "--drain-delay-s=0"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-m", "turnout_server", *flags], cwd=ROOT, env=os.environ, stderr=log)
        try:
            await_ready(port)
            yield port
        finally:
            process.terminate()
            process.wait(60)
