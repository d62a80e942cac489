"""Servers on this machine, each a process of its own, that are started, stopped and restarted under load."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import IO

from benchmarks.contestants import ROOT, free_port

#: How long a replica may take to be ready, or to end.
PATIENCE_S = 60.0


class Replica:
    """A server with ports of its own, which it keeps over restarts. Not running at first.

    Args:
        index: its number, which appears in its name.
        log: where its log goes.
        flags: further flags of the server.
    """

    def __init__(self, index: int, repository: Path, log: IO[bytes], flags: tuple[str, ...] = ()) -> None:
        self.name = f"turnout-{index}"
        self.grpc_port, self.metrics_port = free_port(), free_port()
        self._log = log
        self._flags = [
            f"--model-repository={repository}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
            f"--server-name={self.name}",
            *flags,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._answered_before = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def start(self) -> None:
        """Starts it and returns once it is ready.

        Raises:
            RuntimeError: it ends, or isn't ready in time.
        """
        # Each server would measure its own share of the cores otherwise.
        environment = {**os.environ, "TURNOUT_PROFILE_BUDGET_S": "0"}
        command = [sys.executable, "-m", "turnout_server", *self._flags]
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=self._log, stderr=self._log)
        until_s = time.monotonic() + PATIENCE_S
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(f"{self.name} isn't ready; its log is {self._log.name}")
            time.sleep(0.1)

    def stop(self) -> int:
        """Sends SIGTERM, as an orchestrator does, and waits for the end; returns the exit status."""
        if self._process is None:
            return 0
        self._answered_before = self.answered()
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(PATIENCE_S)
        self._process = None
        return status

    def end(self) -> None:
        """Kills it if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def is_ready(self) -> bool:
        try:
            return self._get("/readyz") == "ready\n"
        except OSError:
            return False

    def answered(self) -> int:
        """Requests that it has answered, in all its lives; those of a drain aren't counted, because nobody can ask any more."""
        try:
            models = json.loads(self._get("/status"))["models"]
        except OSError:
            return self._answered_before
        own = sum(int(device["answered"]) for model in models for device in model["devices"])
        return own + (self._answered_before if self._answered_before and own < self._answered_before else 0)

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=2) as answer:
            text: str = answer.read().decode()
        return text
