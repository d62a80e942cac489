from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from turnout_server.core.errors import FailedPrecondition
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices import device as devices
from turnout_server.devices import discovery, engines, openvino
from turnout_server.devices.device import Device
from turnout_server.devices.engines import Engine, Engines, LocalEngine, bring_up
from turnout_server.devices.process_engine import ProcessEngine
from turnout_server.devices.sessions import built_in_providers

from tests import models
from tests.server.fakes import FakeEngine

CPU = replace(devices.cpu(), threads=1, guarded=False)
CHILD = replace(CPU, name="cpu:child", isolated=True)


def nothing() -> None:
    """Nobody listens."""


@pytest.mark.parametrize(("device", "kind"), [(CPU, LocalEngine), (CHILD, ProcessEngine)], ids=["in process", "child"])
def test_both_sorts_of_engine_open_the_same_models(device: Device, kind: type[Engine], tmp_path: Path) -> None:
    models.save(tmp_path, "m", models.add_constant(1))
    engine = engines.start(device, nothing)
    try:
        assert isinstance(engine, kind)
        assert (engine.device, engine.unavailable_reason(), engine.restarts) == (device, None, 0)
        session = engine.open(tmp_path / "m/1/model.onnx", RuntimeOptions())
        assert session.run({"x": np.ones((1, 2), np.float32)}, ["y"])[0].tolist() == [[2, 2]]
    finally:
        engine.stop()


@pytest.mark.parametrize("device", [CPU, CHILD], ids=["in process", "child"])
def test_a_device_whose_test_run_fails_has_no_engine(device: Device) -> None:
    with pytest.raises(FailedPrecondition, match="no NoSuchProvider"):
        engines.start(replace(device, provider="NoSuchProvider"), nothing)


class Host:
    """A machine with these devices, and files of so many GPUs: starting any other device fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *working: str, gpus: int = 1, missing: str | None = None) -> None:
        self.started: list[str] = []
        self.stopped: list[str] = []
        self._working = working
        monkeypatch.setattr(engines, "start", self._start)
        monkeypatch.setattr(discovery, "missing_for_cuda", lambda providers: missing)
        monkeypatch.setattr(discovery, "count_gpus", lambda: gpus)

    def _start(self, device: Device, changed: Callable[[], None]) -> Engine:
        self.started.append(device.name)
        if device.name not in self._working:
            raise FailedPrecondition(f"{device.name} fails its test run")
        engine = FakeEngine(device.name)
        engine.device = device
        engine.stop = lambda: self.stopped.append(device.name)  # type: ignore[method-assign]
        return engine


def test_without_a_declaration_every_device_that_works_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, "cpu", "cuda:0", "cuda:1", gpus=2)
    found = bring_up([], set(), nothing)
    assert list(found.by_name) == ["cpu", "cuda:0", "cuda:1"]
    assert not {"cpu", "cuda"} & found.missing.keys()
    assert host.started == ["cpu", "cuda:0", "cuda:1"]


def test_53_a_gpu_that_fails_keeps_no_other_from_being_found_and_the_log_says_why_it_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    Host(monkeypatch, "cpu", "cuda:1", gpus=3)
    found = bring_up([], set(), nothing)
    assert list(found.by_name) == ["cpu", "cuda:1"]
    assert found.missing["cuda:0"] == "cuda:0 fails its test run"
    assert "cuda:0: not available: cuda:0 fails its test run" in caplog.messages
    assert "cuda:2: not available: cuda:2 fails its test run" in caplog.messages


def test_a_kind_of_which_there_is_none_is_missing_for_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    Host(monkeypatch, "cpu")
    assert bring_up([], set(), nothing).missing["cuda"] == "cuda:0 fails its test run"


def test_a_driver_that_is_not_there_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, "cpu", missing="no NVIDIA driver")
    assert bring_up([], set(), nothing).missing["cuda"] == "no NVIDIA driver"
    assert host.started == ["cpu"]


def test_declared_devices_come_first_and_are_not_started_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, "cpu", "cpu:slow", "cuda:0", gpus=2)
    found = bring_up([replace(CPU, name="cpu:slow"), devices.cuda(0), CPU], set(), nothing)
    assert list(found.by_name) == ["cpu:slow", "cuda:0", "cpu"]
    assert host.started == ["cpu:slow", "cuda:0", "cpu", "cuda:1"]


def test_a_kind_that_is_switched_off_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, "cpu", "cuda:0")
    assert list(bring_up([], {"cpu"}, nothing).by_name) == ["cuda:0"]
    assert "cpu" not in host.started
    found = bring_up([], {"cuda"}, nothing)
    assert list(found.by_name) == ["cpu"]
    assert found.missing["cuda"] == "the settings disable cuda"


def test_a_gpu_that_is_switched_off_is_not_tried_and_keeps_no_other_from_being_found(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, "cpu", "cuda:0", "cuda:1", "cuda:2", gpus=3)
    found = bring_up([], {"cuda:1"}, nothing)
    assert list(found.by_name) == ["cpu", "cuda:0", "cuda:2"]
    assert found.missing["cuda:1"] == "the settings disable cuda:1"
    assert "cuda:1" not in host.started


def test_the_only_gpu_that_is_switched_off_is_missing_for_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, "cpu", "cuda:0")
    assert bring_up([], {"cuda:0"}, nothing).missing["cuda"] == "the settings disable cuda:0"
    assert host.started == ["cpu"]


def test_a_declared_device_of_any_kind_that_is_switched_off_is_missing_for_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    Host(monkeypatch, "cpu")
    missing = bring_up([], {"cpu:slow", "openvino:0", "tensorrt"}, nothing).missing
    assert missing["cpu:slow"] == "the settings disable cpu:slow"
    assert missing["openvino:0"] == "the settings disable openvino:0"
    assert missing["tensorrt"] == "the settings disable tensorrt"


def test_a_server_that_is_left_without_any_device_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    Host(monkeypatch, missing="no NVIDIA driver")
    with pytest.raises(FailedPrecondition, match=r"no device to run on: the settings disable cpu, .* no NVIDIA driver"):
        bring_up([], {"cpu"}, nothing)


def test_a_kind_that_is_only_ever_declared_is_missing_with_the_table_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    Host(monkeypatch, "cpu", "openvino:0")
    found = bring_up([Device("openvino:0", "openvino", "OpenVINOExecutionProvider")], set(), nothing)
    assert found.missing["tensorrt"] == "none is declared; [devices.'tensorrt:0'] in the --config file would declare one"
    assert "openvino" not in found.missing


def test_cpu_devices_on_the_same_cores_are_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    Host(monkeypatch, "cpu", "cpu:slow")
    bring_up([replace(CPU, name="cpu:slow", cpus=(0,), isolated=True)], {"cpu"}, nothing)
    assert not caplog.records
    bring_up([replace(CPU, name="cpu:slow", cpus=(0,), isolated=True)], set(), nothing)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "devices cpu:slow and cpu share the cores [0]" in warning


def test_a_declared_device_that_does_not_work_is_named_and_stops_those_that_were_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(monkeypatch, "cpu:slow")
    with pytest.raises(FailedPrecondition, match=r"\[devices\.'cuda:3'\] does not work with CUDAExecutionProvider: cuda:3"):
        bring_up([replace(CPU, name="cpu:slow"), devices.cuda(3)], set(), nothing)
    assert host.stopped == ["cpu:slow"]


def test_stopping_all_ends_every_process() -> None:
    before = psutil.Process().children()
    found = Engines({"cpu:child": ProcessEngine(CHILD), "cpu": LocalEngine(CPU)}, {})
    assert len(psutil.Process().children()) == len(before) + 1
    found.stop()
    assert psutil.Process().children() == before


@pytest.mark.skipif("AzureExecutionProvider" not in built_in_providers(), reason="the CPU build has a provider without kernels")
def test_a_provider_that_leaves_the_work_to_the_cpu_is_refused() -> None:
    azure = Device("cpu:azure", "cpu", "AzureExecutionProvider")
    with pytest.raises(FailedPrecondition, match="takes no part of a test model: ONNX Runtime ran it on CPUExecutionProvider"):
        LocalEngine(azure)


def test_openvino_is_found_where_its_plug_in_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Host(monkeypatch, "cpu", "openvino")
    monkeypatch.setattr(openvino, "library", lambda: "/nowhere/libopenvino.so")
    found = bring_up([], {"cuda"}, nothing, tmp_path).by_name["openvino"].device
    assert (found.library, found.hardware, found.isolated) == ("/nowhere/libopenvino.so", "cpu", True)
    assert str(tmp_path) in found.provider_options["load_config"]
    assert "openvino" not in bring_up([], {"cuda", "openvino"}, nothing).by_name
    declared = replace(CPU, name="openvino")
    assert bring_up([declared], {"cuda"}, nothing).by_name["openvino"].device == declared


def test_a_plug_in_that_does_not_work_is_missing_with_the_reason_and_the_cpu_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    Host(monkeypatch, "cpu")
    monkeypatch.setattr(openvino, "library", lambda: "/nowhere/libopenvino.so")
    found = bring_up([], {"cuda"}, nothing)
    assert list(found.by_name) == ["cpu"]
    assert found.missing["openvino"] == "openvino fails its test run"
    assert "openvino: not available: openvino fails its test run" in caplog.text
