"""A server with two devices: the CPU in process, and a CPU in a process of its own, in which faults are provoked."""

import re
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import psutil
import pytest
from turnout_proto.methods import Stub

from tests import models
from tests.faulty import Faults, freeze, until
from tests.integration.conftest import server, shared_servers, zoo
from tests.servers import RunningServer, running
from tests.wire import parameters, request

__all__ = ["server", "shared_servers", "zoo"]

#: The device whose worker process fails.
ISOLATED = "cpu:child"
ROW = {"x": np.array([[1.0, 2.0]], np.float32)}
DEVICES = f"""
[devices.cpu]
threads = 1
isolation = "in-process"
[devices."{ISOLATED}"]
threads = 1
isolation = "process"
watchdog_s = 0.5
memory_limit_mb = 256
"""
#: Makes `auto` choose the isolated device: the other one's file gives the same results, but takes a hundred times as long.
FAST_ON_ISOLATED = f"""
max_batch_size: 8
parameters {{ key: "turnout.file.{ISOLATED}" value {{ string_value: "quick.onnx" }} }}
"""


class Site:
    """A server, and the means to provoke faults in its isolated device."""

    def __init__(self, server: RunningServer, repository: Path, faults: Faults) -> None:
        self.repository = repository
        self.faults = faults
        self._server = server
        self._process = psutil.Process(server.process.pid)

    @property
    def worker(self) -> psutil.Process:
        """The device's worker process; waits until there is one."""
        alive: list[psutil.Process] = []

        def one_is_alive() -> bool:
            alive[:] = [process for process in self._process.children() if process.status() != psutil.STATUS_ZOMBIE]
            return len(alive) == 1

        until(one_is_alive)
        return alive[0]

    def seen(self, device: str, model: str = "work", inputs: Mapping[str, np.ndarray] = ROW) -> str:
        """What a client that asks for this device sees, in a few words."""
        try:
            answer = self._server.stub.ModelInfer(request(model, inputs, parameters={"device": device}), timeout=30)
        except grpc.RpcError as error:
            call = cast(grpc.Call, error)
            pushback = dict(call.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
            return call.code().name + ("" if pushback is None else f", again in {pushback!s} ms")
        answered = parameters(answer)
        if model == "work":
            assert answer.raw_output_contents[0] == ROW["x"].tobytes()
        return f"OK on {answered['device']}" + (", retried" if answered["route_reason"] == "retried" else "")

    def wait_until_recovered(self) -> None:
        """Returns once requests that name the device are answered again."""
        until(lambda: self.seen(ISOLATED) == f"OK on {ISOLATED}", timeout_s=30)

    def wait_until_restarted(self, before: int) -> None:
        """Returns once the device was restarted more than `before` times and works."""
        until(lambda: self.metric("turnout_device_restarts_total") > before and self.metric("turnout_device_up") == 1)

    def metric(self, name: str) -> int:
        """The value of a metric of the isolated device."""
        with urllib.request.urlopen(f"{self._server.monitoring}/metrics", timeout=10) as page:
            found = re.search(rf'^{name}{{device="{ISOLATED}"}} (\S+)$', page.read().decode(), re.MULTILINE)
        assert found, name
        return int(float(found[1]))

    @contextmanager
    def steady_load(self) -> Iterator["Steady"]:
        """Runs a client that sends requests to the other device all the time, and must not notice any fault."""
        with grpc.insecure_channel(self._server.address) as channel:
            steady = Steady(Stub(channel))
            thread = threading.Thread(target=steady.run)
            thread.start()
            try:
                yield steady
                before = steady.answers
                until(lambda: steady.answers > before or bool(steady.failures))
            finally:
                steady.stopping.set()
                thread.join()

    def kill(self) -> None:
        self.worker.send_signal(signal.SIGKILL)

    def freeze(self) -> None:
        freeze(self.worker)


class Steady:
    """A client that sends one request after another to the other device."""

    def __init__(self, stub: Stub) -> None:
        self.stopping = threading.Event()
        self.answers = 0
        self.failures: list[str] = []
        self.slowest_s = 0.0
        self._stub = stub
        self._request = request("steady", ROW, parameters={"device": "cpu"})

    def run(self) -> None:
        while not self.stopping.wait(0.002):
            started_s = time.monotonic()
            try:
                answered = parameters(self._stub.ModelInfer(self._request, timeout=10))
                assert (answered["device"], answered["route_reason"]) == ("cpu", "requested")
                self.answers += 1
            except (grpc.RpcError, AssertionError) as error:
                self.failures.append(repr(error))
            self.slowest_s = max(self.slowest_s, time.monotonic() - started_s)


def save_repository(root: Path) -> None:
    models.save(root, "steady", models.add_constant(1))
    models.save(root, "fill", models.fill())
    models.save(root, "text", models.identity("BYTES", ("n",)))
    for name in ("work", "gone"):
        models.save(root, name, models.lazy(20_000), configuration=FAST_ON_ISOLATED)
        (root / name / "1" / "quick.onnx").write_bytes(models.add_constant(0).SerializeToString())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("faults")
    for name in ("models", "faults"):
        (root / name).mkdir()
    save_repository(root / "models")
    (root / "turnout.toml").write_text(DEVICES)
    faults = Faults(root / "faults")
    with running(root / "models", f"--config={root / 'turnout.toml'}", env=faults.environment) as server:
        yield Site(server, root / "models", faults)


@pytest.fixture
def site(served: Site) -> Site:
    """A server whose devices all work."""
    served.faults.clear()
    served.wait_until_recovered()
    return served
