"""Providers from libraries: real errors of ONNX Runtime; what a library that works offers is made up, because there is none."""

import _ctypes
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from turnout_server.core.errors import FailedPrecondition
from turnout_server.devices import engines, plugins, sessions
from turnout_server.devices.device import Device
from turnout_server.devices.probe import unavailable_reason
from turnout_server.devices.sessions import OnnxSession

from tests import models

VENDOR = Device("npu:0", "npu", "VendorExecutionProvider", library="/nowhere/libvendor.so")


@pytest.mark.parametrize("isolated", [False, True], ids=["in process", "child"])
def test_a_library_that_is_not_there_keeps_its_device_from_starting(isolated: bool) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        engines.bring_up([replace(VENDOR, isolated=isolated)], {"cpu", "cuda"}, lambda: None)
    for words in (
        "[devices.'npu:0']",
        "VendorExecutionProvider",
        "/nowhere/libvendor.so",
        "No such file",
        "CPUExecutionProvider",
    ):
        assert words in str(caught.value)


def test_a_library_that_is_no_provider_is_refused() -> None:
    problem = unavailable_reason(replace(VENDOR, library=_ctypes.__file__))
    assert problem is not None
    assert "the library of VendorExecutionProvider cannot be used" in problem
    assert "CreateEpFactories" in problem


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "libvendor.so").write_text("this is no library")
    problem = unavailable_reason(replace(VENDOR, library=str(tmp_path / "libvendor.so")))
    assert problem is not None
    assert "libvendor.so" in problem


@dataclass
class Runtime:
    """As much of ONNX Runtime as plugging a library in takes: the library offers two CPUs and an NPU."""

    registered: list[tuple[str, str]] = field(default_factory=list)

    def register_execution_provider_library(self, name: str, path: str) -> None:
        self.registered.append((name, path))

    def get_ep_devices(self) -> list[SimpleNamespace]:
        offered = [("CPUExecutionProvider", "CPU", "AMD")]
        if self.registered:
            offered += [("VendorExecutionProvider", kind, f"vendor {n}") for n, kind in enumerate(("CPU", "CPU", "NPU"))]
        return [
            SimpleNamespace(ep_name=name, device=SimpleNamespace(type=SimpleNamespace(name=kind), vendor=vendor))
            for name, kind, vendor in offered
        ]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = Runtime()
    monkeypatch.setattr(plugins, "onnxruntime", runtime)
    monkeypatch.setattr(plugins, "_register", plugins._register.__wrapped__)  # remembers nothing of another test
    return runtime


@pytest.mark.parametrize(
    ("name", "hardware", "found"),
    [("npu:0", "", "vendor 0"), ("npu:1", "", "vendor 1"), ("npu:0", "npu", "vendor 2"), ("npu:fast", "cpu", "vendor 0")],
)
def test_the_number_in_a_devices_name_picks_from_the_hardware_of_its_sort(
    runtime: Runtime, name: str, hardware: str, found: str
) -> None:
    assert plugins.hardware_of(replace(VENDOR, name=name, hardware=hardware)).device.vendor == found
    assert runtime.registered == [("VendorExecutionProvider", "/nowhere/libvendor.so")]


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (
            replace(VENDOR, name="npu:3"),
            "offers no hardware with number 3; it offers ['cpu of vendor 0', 'cpu of vendor 1', 'npu",
        ),
        (replace(VENDOR, name="npu:1", hardware="npu"), "offers no npu with number 1"),
        (replace(VENDOR, hardware="gpu"), "offers no gpu with number 0"),
        (
            replace(VENDOR, provider="OtherExecutionProvider"),
            "OtherExecutionProvider finds no hardware that it can use; this machine has cpu of ",
        ),
    ],
)
@pytest.mark.usefixtures("runtime")
def test_what_a_library_does_not_offer_is_refused_with_what_it_does(device: Device, words: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        plugins.hardware_of(device)
    assert words in str(caught.value)


def test_a_session_is_made_for_the_hardware_of_its_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The CPU's own provider can be had as a plug-in's can, which is the one real way there is without a library."""
    monkeypatch.setattr(sessions, "hardware_of", lambda device: onnxruntime.get_ep_devices()[0])
    models.save(tmp_path, "m", models.add_constant(1))
    device = Device("npu:0", "npu", "CPUExecutionProvider", {"a": "b"}, library="libvendor.so")
    session = OnnxSession(tmp_path / "m/1/model.onnx", device)
    assert session.run({"x": np.ones((1, 2), np.float32)}, ["y"])[0].tolist() == [[2, 2]]
    assert dict(session.placement) == {"CPUExecutionProvider": 1}


def test_a_session_without_the_provider_of_its_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "hardware_of", lambda device: onnxruntime.get_ep_devices()[0])
    problem = unavailable_reason(VENDOR)
    assert problem is not None
    assert "VendorExecutionProvider could not be set up, and ONNX Runtime would have used the CPU instead" in problem
