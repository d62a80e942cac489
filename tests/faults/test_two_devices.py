"""Two CPU devices on a core each, kept busy by clients who don't care which answers them, and one of the two dies."""

import os
import statistics
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import psutil
import pytest
from turnout_proto.methods import Stub

from tests import models
from tests.faulty import until
from tests.servers import RunningServer, running
from tests.wire import parameters, request

INSIDE, CHILD = "cpu:a", "cpu:b"
ROW = {"x": np.array([[1.0, 2.0]], np.float32)}
CLIENTS = 4
#: Answers of a device that show that it is in use.
SOME = 10
DEVICES = """
[devices."cpu:a"]
threads = 1
cpus = "{}"
[devices."cpu:b"]
threads = 1
cpus = "{}"
isolation = "process"
[devices.cpu]
disabled = true
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    models.save(tmp_path / "models", "work", models.lazy(20_000), configuration="max_batch_size: 2")
    cores = sorted(os.sched_getaffinity(0))
    (tmp_path / "turnout.toml").write_text(DEVICES.format(cores[0], cores[-1]))
    with running(tmp_path / "models", f"--config={tmp_path / 'turnout.toml'}") as server:
        for device in (INSIDE, CHILD):  # nothing is known of them yet, and `auto` tries such a device last
            server.stub.ModelInfer(request("work", ROW, parameters={"device": device}), timeout=30)
        yield server


class Load:
    """Clients who ask for a device, one request after another.

    Attributes:
        answers, failures: counted by device and by status.
        ratios: of the answers, how long each took to how long it was predicted to.
    """

    def __init__(self, server: RunningServer, device: str) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.ratios: list[float] = []
        self.stopping = threading.Event()
        self._address = server.address
        self._request = request("work", ROW, parameters={"device": device})
        self._lock = threading.Lock()

    def run(self) -> None:
        with grpc.insecure_channel(self._address) as channel:
            stub = Stub(channel)
            while not self.stopping.wait(0.001):
                try:
                    said = parameters(stub.ModelInfer(self._request, timeout=30))
                except grpc.RpcError as error:
                    self._note(self.failures, cast(grpc.Call, error).code().name)
                else:
                    self._note(self.answers, str(said["device"]))
                    self.ratios.append((int(said["queue_us"]) + int(said["compute_us"])) / int(said["predicted_us"]))

    def wait_for_some(self, *devices: str) -> None:
        """Returns once each of these has answered some more."""
        before = self.answers.copy()
        until(lambda: all(self.answers[device] >= before[device] + SOME for device in devices), timeout_s=30)

    def _note(self, counts: Counter[str], what: str) -> None:
        with self._lock:
            counts[what] += 1


@contextmanager
def load(server: RunningServer, device: str, clients: int) -> Iterator[Load]:
    going = Load(server, device)
    threads = [threading.Thread(target=going.run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield going
    finally:
        going.stopping.set()
        for thread in threads:
            thread.join()


def test_auto_uses_both_devices_and_nobody_on_it_notices_when_one_is_killed(server: RunningServer) -> None:
    with load(server, "auto", CLIENTS) as anywhere, load(server, CHILD, 1) as there:
        anywhere.wait_for_some(INSIDE, CHILD)
        (child,) = psutil.Process(server.process.pid).children()
        child.kill()
        anywhere.wait_for_some(INSIDE)
        anywhere.wait_for_some(INSIDE, CHILD)  # it is back
        there.wait_for_some(CHILD)
    assert not anywhere.failures
    assert 0.2 < statistics.median(anywhere.ratios) < 5
    assert set(there.failures) == {"UNAVAILABLE"}
    assert set(there.answers) == {CHILD}
