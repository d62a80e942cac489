import os
from dataclasses import replace

import pytest
from turnout_server.devices import places
from turnout_server.devices.device import Device, cuda
from turnout_server.devices.device import cpu as undeclared_cpu
from turnout_server.devices.places import places_of, shared_cores

CORES = 4


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "usable_cpus", lambda: CORES)


def cpu(name: str, *cpus: int, threads: int = CORES, instances: int = 1) -> Device:
    return replace(undeclared_cpu(), name=name, cpus=cpus, threads=threads, instances=instances)


def openvino(threads: int = CORES, hardware: str = "cpu") -> Device:
    provider, library = "OpenVINOExecutionProvider", "/nowhere/libopenvino.so"
    return Device("openvino", "openvino", provider, library=library, hardware=hardware, threads=threads, isolated=True)


TENSORRT = Device("tensorrt:0", "tensorrt", "TensorrtExecutionProvider", {"device_id": "0"}, isolated=True)
NPU = Device("npu:0", "npu", "VendorExecutionProvider", library="/nowhere/libvendor.so", isolated=True)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        pytest.param([cpu("cpu"), openvino()], [("cpu", "openvino")], id="each takes all cores"),
        pytest.param([cpu("cpu", threads=2), openvino(2)], [("cpu",), ("openvino",)], id="half of the cores each"),
        pytest.param([cpu("cpu", threads=2, instances=2), openvino(2)], [("cpu", "openvino")], id="instances count"),
        pytest.param([cpu("cpu", threads=0), openvino(1)], [("cpu", "openvino")], id="threads left to the provider"),
        pytest.param([cpu("cpu:a", 0, 1), cpu("cpu:b", 2, 3)], [("cpu:a",), ("cpu:b",)], id="cores of their own"),
        pytest.param(
            [cpu("cpu:a", 0, 1, threads=1), cpu("cpu:b", 0, 1, threads=1)], [("cpu:a",), ("cpu:b",)], id="one core each"
        ),
        pytest.param([cpu("cpu:a", 0, 1), cpu("cpu:b", 0, 1)], [("cpu:a", "cpu:b")], id="the same cores"),
        pytest.param([cpu("cpu"), openvino(hardware="gpu")], [("cpu",), ("openvino",)], id="another sort of hardware"),
        pytest.param([cuda(0), TENSORRT, cuda(1)], [("cuda:0", "tensorrt:0"), ("cuda:1",)], id="one GPU"),
        pytest.param([cpu("cpu"), cuda(0), NPU], [("cpu",), ("cuda:0",), ("npu:0",)], id="all different"),
    ],
)
def test_devices_that_would_disturb_each_other_share_a_place(devices: list[Device], expected: list[tuple[str, ...]]) -> None:
    assert [tuple(device.name for device in place.devices) for place in places_of(devices)] == expected


def test_a_place_runs_as_many_at_once_as_its_widest_device_and_has_its_cores() -> None:
    (place,) = places_of([cpu("cpu:a", 0, 1, instances=2), cpu("cpu:b", 0, 1)])
    assert (place.instances, place.cpus) == (2, (0, 1))


def test_a_place_may_have_a_run_on_each_core_if_one_of_its_devices_may() -> None:
    assert [place.cores for place in places_of([cpu("cpu"), openvino()])] == [CORES]
    assert [place.cores for place in places_of([replace(cpu("cpu"), per_core=False), cuda(0)])] == [0, 0]


@pytest.mark.parametrize(
    ("devices", "pairs"),
    [
        ([cpu("cpu:a", 0), cpu("cpu:b", 1)], []),
        ([cpu("cpu:a", 0, 1), cpu("cpu:b", 1, 2)], [("cpu:a", "cpu:b", (1,))]),
        ([cpu("cpu:a", 0), cpu("cpu:b", 0)], []),
        ([cpu("cpu"), openvino()], []),
        ([cpu("cpu:a", 0), cuda(0), NPU], []),
    ],
)
def test_devices_on_some_of_the_same_cores_are_told_apart_from_those_that_take_turns(
    devices: list[Device], pairs: list[tuple[str, str, tuple[int, ...]]]
) -> None:
    assert [(one.name, other.name, cores) for one, other, cores in shared_cores(devices)] == pairs


def test_a_device_without_cores_of_its_own_may_use_all() -> None:
    first, *_ = sorted(os.sched_getaffinity(0))
    ((_, _, cores),) = shared_cores([cpu("cpu", first), cpu("cpu:b")])
    assert cores == (first,)
