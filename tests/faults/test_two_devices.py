"""Two CPU devices in processes of their own, on a core each, loaded by clients that ask for `auto`; one of them is killed."""

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

OTHER, KILLED = "cpu:a", "cpu:b"
ROW = {"x": np.array([[1.0, 2.0]], np.float32)}
CLIENTS = 4
#: So many answers show that a device is in use.
ENOUGH = 10
DEVICES = """
[devices."cpu:a"]
threads = 1
cpus = "{}"
isolation = "process"
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
        for device in (OTHER, KILLED):  # `auto` tries a device that was never measured last
            server.stub.ModelInfer(request("work", ROW, parameters={"device": device}), timeout=30)
        yield server


class Load:
    """Clients that send one request after another to a device.

    Attributes:
        answers, failures: counted by device and by status.
        ratios: for each answer, the time it took over the predicted time.
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
                    answered = parameters(stub.ModelInfer(self._request, timeout=30))
                except grpc.RpcError as error:
                    self._note(self.failures, cast(grpc.Call, error).code().name)
                else:
                    self._note(self.answers, str(answered["device"]))
                    self.ratios.append(
                        (int(answered["queue_us"]) + int(answered["compute_us"])) / int(answered["predicted_us"])
                    )

    def wait_for_answers(self, *devices: str) -> None:
        """Returns once each of these devices has given `ENOUGH` more answers."""
        before = self.answers.copy()
        until(lambda: all(self.answers[device] >= before[device] + ENOUGH for device in devices), timeout_s=30)

    def _note(self, counts: Counter[str], what: str) -> None:
        with self._lock:
            counts[what] += 1


@contextmanager
def load(server: RunningServer, device: str, clients: int) -> Iterator[Load]:
    running_load = Load(server, device)
    threads = [threading.Thread(target=running_load.run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield running_load
    finally:
        running_load.stopping.set()
        for thread in threads:
            thread.join()


def test_auto_uses_both_devices_and_its_clients_do_not_notice_when_one_is_killed(server: RunningServer) -> None:
    with load(server, "auto", CLIENTS) as on_auto, load(server, KILLED, 1) as on_isolated:
        on_auto.wait_for_answers(OTHER, KILLED)
        (worker,) = (each for each in psutil.Process(server.process.pid).children() if KILLED in " ".join(each.cmdline()))
        worker.kill()
        on_auto.wait_for_answers(OTHER)
        on_auto.wait_for_answers(OTHER, KILLED)  # the killed one works again
        on_isolated.wait_for_answers(KILLED)
    assert not on_auto.failures
    assert 0.2 < statistics.median(on_auto.ratios) < 5
    assert set(on_isolated.failures) == {"UNAVAILABLE"}
    assert set(on_isolated.answers) == {KILLED}
