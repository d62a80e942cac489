"""A device that dies under load comes back by itself, while the CPU answers on."""

import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import psutil
import pytest

from tests import models
from tests.faulty import Faults, until
from tests.gpu.conftest import declared
from tests.servers import RunningServer, running
from tests.wire import parameters, request

ROW = {"x": np.ones((1, 2), np.float32)}


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    (tmp_path / "faults").mkdir()
    return Faults(tmp_path / "faults")


@pytest.fixture
def own(tmp_path: Path, device: str, faults: Faults) -> Iterator[RunningServer]:
    (tmp_path / "models").mkdir()
    models.save(tmp_path / "models", "work", models.add_constant(1))
    with running(tmp_path / "models", declared(tmp_path, device), env=faults.environment) as server:
        yield server


def child(server: RunningServer, device: str) -> psutil.Process:
    """The device's process, whose only argument says which it is."""
    for process in psutil.Process(server.process.pid).children():
        if process.status() != psutil.STATUS_ZOMBIE and json.loads(process.cmdline()[-1])["device"]["name"] == device:
            return process
    raise AssertionError("the device has no process")


def seen(call: Any) -> str:
    """Where a request was answered, or the status it got."""
    try:
        return str(parameters(call.result())["device"])
    except grpc.RpcError as error:
        return cast(grpc.Call, error).code().name


def ask(server: RunningServer, device: str) -> Any:
    return server.stub.ModelInfer.future(request("work", ROW, parameters={"device": device}), timeout=60)


def restarts(server: RunningServer, device: str) -> float:
    with urllib.request.urlopen(f"{server.monitoring}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    start = f'turnout_device_restarts_total{{device="{device}"}} '
    return float(next(line for line in lines if line.startswith(start)).removeprefix(start))


def test_a_device_killed_under_load_comes_back_and_the_cpu_notices_nothing(own: RunningServer, device: str) -> None:
    calls = [(name, ask(own, name)) for _ in range(200) for name in (device, "cpu", f"{device},cpu")]
    child(own, device).kill()
    answers = {name: Counter(seen(call) for asked, call in calls if asked == name) for name in (device, "cpu", f"{device},cpu")}
    assert set(answers[device]) <= {device, "UNAVAILABLE"}
    assert set(answers["cpu"]) == {"cpu"}
    assert set(answers[f"{device},cpu"]) <= {device, "cpu"}
    until(lambda: seen(ask(own, device)) == device, timeout_s=60)
    assert restarts(own, device) == 1


def test_a_cuda_error_that_sticks_costs_the_process_and_nothing_else(own: RunningServer, device: str, faults: Faults) -> None:
    before = child(own, device).pid
    faults.at("run", "sticky")
    assert seen(ask(own, device)) == "UNAVAILABLE"
    assert seen(ask(own, "cpu")) == "cpu"
    until(lambda: seen(ask(own, device)) == device, timeout_s=60)
    assert child(own, device).pid != before
    assert restarts(own, device) == 1
