"""What a machine has, found before anything is tried."""

from pathlib import Path

import pytest
from turnout_server.devices.discovery import missing_for_cuda

CPU_BUILD, GPU_BUILD = ("CPUExecutionProvider",), ("CUDAExecutionProvider", "CPUExecutionProvider")


@pytest.mark.parametrize("file", ["proc/driver/nvidia/version", "dev/nvidiactl"])
def test_with_a_driver_the_doctor_knows_how_to_use_the_gpu(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    assert missing_for_cuda(GPU_BUILD, tmp_path) is None
    missing = missing_for_cuda(CPU_BUILD, tmp_path)
    assert missing == "the CPU build of ONNX Runtime is installed ('turnout-server doctor' has the fix)"


def test_without_a_driver_there_is_nothing_to_fix(tmp_path: Path) -> None:
    missing = "no NVIDIA driver is loaded on this machine"
    assert missing_for_cuda(GPU_BUILD, tmp_path) == missing
    assert missing_for_cuda(CPU_BUILD, tmp_path) == f"{missing} and the CPU build of ONNX Runtime is installed"
