"""The sending processes, as the process that runs a comparison sees them."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.sending.load import CLOSED, Load
from turnout_loadtests.sending.samples import Samples, merged

#: For importing Locust, building the requests and writing the samples.
PREPARE_S, SAVE_S = 120.0, 60.0
#: Between the order to send and the first request, so that all processes begin together.
LEAD_S = 0.05

Tick = Callable[[], None]


def _nothing(begin_s: float, end_s: float) -> None:
    """Ignores when a window begins and ends."""


class SenderDied(LoadTestError):
    """A sending process ended or hung; new ones have to be started."""


class Senders:
    """Processes that send a load together, each its share of the users."""

    def __init__(self, count: int, cores: Sequence[int] = ()) -> None:
        """Starts `count` processes; if cores are given, they run on those only."""
        self._in_use: list[subprocess.Popen[str]] = []
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        self._folder = tempfile.TemporaryDirectory()
        command = [sys.executable, "-m", "turnout_loadtests.sending.sender"]
        self._processes = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for the comparison, which still needs what they measured
            )
            for _ in range(count)
        ]
        for process in self._processes if cores else ():
            os.sched_setaffinity(process.pid, set(cores))

    def __enter__(self) -> "Senders":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The ids of the processes."""
        return [process.pid for process in self._processes]

    def prepare(self, load: Load, tick: Tick = lambda: None) -> None:
        """Has the requests of a load built.

        Raises:
            LoadTestError: they can't be built.
            SenderDied: a process ended, or took too long.
        """
        shares = _shares(load, len(self._processes))
        for process, share in zip(self._processes, shares, strict=False):
            self._order(process, {"order": "prepare", "load": asdict(share)})
        self._in_use = self._processes[: len(shares)]
        for process in self._in_use:
            self._answer(process, PREPARE_S, tick)

    def send(self, load: Load, begun: Callable[[float, float], None] = _nothing, tick: Tick = lambda: None) -> Samples:
        """Sends the load that was prepared, and returns its samples once all its requests have ended.

        Args:
            begun: called with the begin and the end of the window, on the clock of `time.perf_counter`, before it begins.
            tick: called several times a second.
        """
        start_s = time.perf_counter() + LEAD_S
        files = [Path(self._folder.name) / f"{place}.npz" for place in range(len(self._in_use))]
        for process, file in zip(self._in_use, files, strict=True):
            self._order(process, {"order": "send", "start_s": start_s, "samples": str(file)})
        window_s = start_s + load.warm_up_s
        begun(window_s, window_s + load.duration_s)
        limit_s = load.warm_up_s + load.duration_s + 2 * load.timeout_s + SAVE_S
        for process in self._in_use:
            self._answer(process, limit_s, tick)
        return merged([Samples.load(file) for file in files])

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._log.close()
        self._folder.cleanup()

    def _order(self, process: "subprocess.Popen[str]", order: dict[str, Any]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._died("ended") from None

    def _answer(self, process: "subprocess.Popen[str]", timeout_s: float, tick: Tick) -> None:
        assert process.stdout is not None
        until_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not selector.select(timeout=0.2):
                tick()
                if time.monotonic() > until_s:
                    raise self._died(f"gave no answer within {timeout_s:.0f} s")
        line = process.stdout.readline()
        if not line:
            raise self._died("ended")
        answer = json.loads(line)
        if "error" in answer:
            raise LoadTestError(answer["error"])

    def _died(self, what: str) -> SenderDied:
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        return SenderDied(f"a sending process {what}: {lines[-1] if lines else 'it printed nothing'}")


def _shares(load: Load, processes: int) -> list[Load]:
    """The part of a load that each process sends; fewer parts than processes if there are fewer users."""
    count = min(processes, load.user_count)
    users = [load.user_count // count + (place < load.user_count % count) for place in range(count)]
    return [
        replace(
            load,
            users=share,
            in_flight=share if load.arrival == CLOSED else max(1, load.in_flight // count),
            rate_per_s=load.rate_per_s * share / load.user_count,
        )
        for share in users
    ]
