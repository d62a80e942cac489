"""`python -m benchmarks.round_steps`: the polling thread's CPU time per request, by step of its round, as a picture.

The server runs in this process, on a transport that reads the thread's CPU clock between the steps.
"""

import argparse
import logging
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import matplotlib as mpl
import psutil
from turnout_server.app import Server
from turnout_server.observability.log_settings import LogSettings
from turnout_server.settings import Settings
from turnout_server.transport import selection
from turnout_server.transport.completion_queue import CompletionQueueTransport
from turnout_server.transport.completion_queue_calls import guarded

from benchmarks.cases import CASES
from benchmarks.checkouts import Load, measure, ready

CLIENTS = (1, 4, 16)
#: In the order of a round.
STEPS = ("receive events", "call handlers", "run inline work", "send answers", "watch for cancellation")
PICTURE = Path(__file__).parent.parent / "docs" / "results" / "frontend-steps.svg"


class TimedTransport(CompletionQueueTransport):
    """Adds up the CPU seconds of each step, and the number of requests."""

    totals: ClassVar[defaultdict[str, float]] = defaultdict(float)

    def _receive_events(self, until_s: float) -> None:
        began_s = time.thread_time()
        super()._receive_events(until_s)
        self.totals[STEPS[0]] += time.thread_time() - began_s

    def _handle_events(self) -> bool:
        with self._handling:
            self._round.thread = threading.get_ident()
            return self._handle_timed()

    def _handle_timed(self) -> bool:
        received, answered = self._round.received, self._round.answered
        self.totals["requests"] += len(received)
        times_s = [time.thread_time()]
        for call, message in received:
            guarded(call.handle, message)
        times_s.append(time.thread_time())
        more = self._inline is not None and bool(guarded(self._inline.run))
        times_s.append(time.thread_time())
        for answer in answered:
            guarded(answer.flush)
        times_s.append(time.thread_time())
        for call, _ in received:
            guarded(call.watch)
        times_s.append(time.thread_time())
        received.clear()
        answered.clear()
        for step, began_s, ended_s in zip(STEPS[1:], times_s[:-1], times_s[1:], strict=True):
            self.totals[step] += ended_s - began_s
        return more


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.round_steps", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load (4)")
    seconds = parser.parse_args().seconds
    case = CASES[0]
    selection.choose = _timed
    steps_us: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        case.publish(Path(directory))
        settings = Settings.model_validate({"model_repository": directory, "grpc_port": 0, "metrics_port": 0})
        server = Server(settings, LogSettings(logging.NullHandler(), "info"))
        server.start()
        try:
            while not ready(server.metrics_port):
                time.sleep(0.1)
            for clients in CLIENTS:
                before = dict(TimedTransport.totals)
                measure(Load(case, clients, shared=False), server.grpc_port, psutil.Process(), seconds, "spawn")
                steps_us[clients] = per_request_us(before, TimedTransport.totals)
                print(f"{clients} clients:", ", ".join(f"{step} {us:.1f} us" for step, us in steps_us[clients].items()))
        finally:
            server.stop()
    draw(steps_us, PICTURE)


def _timed(name: selection.Name) -> selection.Make:
    return TimedTransport


def per_request_us(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """CPU microseconds of each step per request between two readings of the totals."""
    requests = after["requests"] - before.get("requests", 0.0)
    return {step: (after[step] - before.get(step, 0.0)) / requests * 1e6 for step in STEPS}


def draw(steps_us: Mapping[int, Mapping[str, float]], path: Path) -> None:
    """Writes a bar for each number of clients, divided into the steps."""
    mpl.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only after the backend was chosen

    plt.rcParams["svg.hashsalt"] = "turnout"
    figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
    names = [f"{clients} client{'s' * (clients > 1)}" for clients in steps_us]
    left = [0.0] * len(names)
    for step in STEPS:
        widths = [by_step[step] for by_step in steps_us.values()]
        bars = axes.barh(names, widths, left=left, label=step)
        axes.bar_label(bars, [f"{width:.0f}" if width >= 5 else "" for width in widths], label_type="center", fontsize=8)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("CPU time of the polling thread per request, in us")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
