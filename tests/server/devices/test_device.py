import os
from dataclasses import replace
from pathlib import Path

import pytest
from turnout_server.devices.device import Device, cuda, cuda_options, default_options, shared_cores
from turnout_server.devices.device import cpu as undeclared_cpu
from turnout_server.devices.discovery import MAX_GPUS, count_gpus, fingerprint
from turnout_server.devices.host import cpu_model

CPU = undeclared_cpu()
NPU = Device("npu:0", "npu", "VendorExecutionProvider", library="/nowhere/libvendor.so", isolated=True)


def cpu(name: str, *cpus: int, isolated: bool = True) -> Device:
    return replace(CPU, name=name, cpus=cpus, isolated=isolated)


@pytest.mark.parametrize(
    ("declared", "pairs"),
    [
        ([cpu("cpu:a", 0), cpu("cpu:b", 1)], []),
        ([cpu("cpu:a", 0, 1), cpu("cpu:b", 1, 2)], [("cpu:a", "cpu:b", (1,))]),
        (
            [cpu("cpu:a", 0), cpu("cpu:b", 0), cpu("cpu:c", 0)],
            [("cpu:a", "cpu:b", (0,)), ("cpu:a", "cpu:c", (0,)), ("cpu:b", "cpu:c", (0,))],
        ),
        ([cpu("cpu:a", 0), cuda(0), NPU], []),
    ],
)
def test_two_cpu_devices_share_the_cores_that_both_may_use(
    declared: list[Device], pairs: list[tuple[str, str, tuple[int, ...]]]
) -> None:
    assert [(one.name, other.name, cores) for one, other, cores in shared_cores(declared)] == pairs


def test_a_device_in_this_process_is_kept_to_its_cores_and_one_without_may_use_all() -> None:
    usable = sorted(os.sched_getaffinity(0))
    ((_, _, cores),) = shared_cores([cpu("cpu", isolated=False), cpu("cpu:b")])
    assert list(cores) == usable
    ((_, _, cores),) = shared_cores([cpu("cpu", usable[0], isolated=False), cpu("cpu:b")])
    assert list(cores) == usable[:1]
    assert not list(shared_cores([cpu("cpu:a", 0, isolated=False), cpu("cpu:b", 1)]))


def test_only_a_provider_that_takes_a_number_is_told_one() -> None:
    assert default_options("CUDAExecutionProvider", 1, 2, tf32=False) == cuda_options(1, 2, tf32=False)
    assert default_options("MIGraphXExecutionProvider", 3, 2) == {"device_id": "3"}
    assert default_options("OpenVINOExecutionProvider", 3) == default_options("CPUExecutionProvider", 3) == {}


def test_another_library_is_another_device_to_a_profile(tmp_path: Path) -> None:
    library = tmp_path / "libvendor.so"
    library.write_bytes(b"1")
    device = replace(NPU, library=str(library))
    before = fingerprint(device)
    assert before == fingerprint(device)
    os.utime(library, ns=(1, 1))
    assert len({before, fingerprint(device), fingerprint(NPU), fingerprint(replace(NPU, hardware="npu"))}) == 4


def test_a_cpu_that_does_not_say_what_it_is_is_unknown(tmp_path: Path) -> None:
    assert cpu_model(tmp_path) == "unknown"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nprocessor\t: 1\nmodel name\t: Other\n"
    )
    assert cpu_model(tmp_path) == "Some CPU @ 2 GHz"


@pytest.mark.parametrize(
    ("files", "visible", "count"),
    [
        ([], None, 1),
        (["nvidiactl", "nvidia-uvm"], None, 1),
        (["nvidiactl", "nvidia0", "nvidia3"], None, 2),
        (["nvidia0", "nvidia1", "nvidia2"], "2,0", 2),
        (["nvidia0", "nvidia1"], "1,-1,0", 1),
        (["nvidia0"], "", 1),
        (["nvidia0"], "MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f", 1),
        ([f"nvidia{number}" for number in range(20)], None, MAX_GPUS),
    ],
)
def test_as_many_gpus_are_tried_as_there_are_files_of_and_at_least_one(
    tmp_path: Path, files: list[str], visible: str | None, count: int
) -> None:
    (tmp_path / "dev").mkdir()
    for name in files:
        (tmp_path / "dev" / name).touch()
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert count_gpus(tmp_path, environ) == count
