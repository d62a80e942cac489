import os
from dataclasses import replace
from pathlib import Path

import pytest
from turnout_server.devices.device import Device, cuda_options, default_options
from turnout_server.devices.discovery import MAX_GPUS, count_gpus, fingerprint
from turnout_server.devices.host import cpu_model

NPU = Device("npu:0", "npu", "VendorExecutionProvider", library="/nowhere/libvendor.so", isolated=True)


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
