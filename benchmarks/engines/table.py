"""Every model on every engine, alone: time, CPU time, how far off, and how long it takes to load."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices.engines import Engine
from turnout_server.devices.sessions import Session
from turnout_server.models.verification import relative_error

from benchmarks.cases import Array
from benchmarks.engines.variants import Variant

ROWS = (1, 2, 4, 8, 16, 32)
#: Each cell is measured in this many rounds, engines in turn; a round repeats short runs for this long.
ROUNDS, ROUND_S = 5, 0.1


@dataclass(frozen=True)
class Cell:
    """One model and number of rows on one engine.

    Attributes:
        run_ms, spread_ms, fastest_ms: over the rounds the median, the median deviation from it, and the least.
        cpu_ms: CPU time of a run on all cores, in the engine's process and in this one.
        error: the largest difference from the first engine's outputs, as a share of their largest absolute value.
        load_s: how long it took to open the model.
    """

    model: str
    precision: str
    rows: int
    engine: str
    run_ms: float
    spread_ms: float
    fastest_ms: float
    cpu_ms: float
    error: float
    load_s: float


def measure(variants: Sequence[Variant], engines: Mapping[str, Engine], rounds: int = ROUNDS) -> list[Cell]:
    """All cells; the first engine is what others are held to."""
    cells = []
    for variant in variants:
        opened = {name: _open(engine, variant.path) for name, engine in engines.items()}
        for rows in ROWS:
            inputs = variant.tensors(rows)
            outputs = {name: _run(session, inputs) for name, (session, _) in opened.items()}
            took: dict[str, list[tuple[float, float]]] = {name: [] for name in opened}
            for number in range(rounds):
                for name in list(opened)[:: 1 if number % 2 == 0 else -1]:
                    took[name].append(_timed(opened[name][0], inputs))
            right = next(iter(outputs.values()))
            for name, (_, load_s) in opened.items():
                runs_s, cpus_s = zip(*took[name], strict=True)
                run_s = statistics.median(runs_s)
                spread_s = statistics.median(abs(each - run_s) for each in runs_s)
                times_ms = (run_s * 1e3, spread_s * 1e3, min(runs_s) * 1e3, statistics.median(cpus_s) * 1e3)
                error = max(relative_error(got, want) for got, want in zip(outputs[name], right, strict=True))
                about = variant.case.name, variant.precision, rows, name
                cells.append(Cell(*about, *times_ms, error, load_s))
    return cells


def _open(engine: Engine, path: Path) -> tuple[Session, float]:
    began_s = time.monotonic()
    return engine.open(path, RuntimeOptions()), time.monotonic() - began_s


def _run(session: Session, inputs: Mapping[str, Array]) -> Sequence[Array]:
    return session.run(inputs, [spec.name for spec in session.outputs])


def _timed(session: Session, inputs: Mapping[str, Array]) -> tuple[float, float]:
    """The seconds and the CPU seconds of a run, as means over `ROUND_S`."""
    began_s, cpu_before_s, runs = time.monotonic(), _cpu_s(), 0
    while not runs or time.monotonic() - began_s < ROUND_S:
        _run(session, inputs)
        runs += 1
    took_s = time.monotonic() - began_s
    return took_s / runs, (_cpu_s() - cpu_before_s) / runs


def _cpu_s() -> float:
    """CPU seconds that this process and the devices' processes have used."""
    this = psutil.Process()
    return float(sum(sum(process.cpu_times()[:2]) for process in [this, *this.children(recursive=True)]))
