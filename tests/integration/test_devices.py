"""Tests that a request runs on the device it names or fails with the reason, and never silently on the CPU instead."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import models
from tests.servers import RunningServer, running
from tests.wire import parameters, refused, request

ROW = {"INPUT": np.ones((1, 2), np.float32)}


@pytest.fixture
def cpu_only(server: RunningServer) -> RunningServer:
    """The shared server, on a machine without a GPU; skips the test elsewhere."""
    if "cuda" in server.process.log and "cuda: not available" not in server.process.log:
        pytest.skip("this machine has a CUDA device")
    return server


def test_each_response_names_the_device_and_the_reason(server: RunningServer) -> None:
    for requested, reason in [("cpu", "requested"), ("cpu,auto", "preference"), (" cpu , cpu ", "preference")]:
        answered = parameters(server.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": requested})))
        assert (answered["device"], answered["device_requested"], answered["route_reason"]) == ("cpu", requested, reason)


def test_auto_selects_the_only_device(cpu_only: RunningServer) -> None:
    for requested in ({}, {"device": "auto"}):
        answered = parameters(cpu_only.stub.ModelInfer(request("fp32_batch", ROW, parameters=requested)))
        assert (answered["device"], answered["route_reason"]) == ("cpu", "only-device")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:99", "cuda,cuda:1"])
def test_52_a_missing_gpu_is_refused_with_the_reason(cpu_only: RunningServer, device: str) -> None:
    with refused("FAILED_PRECONDITION", "'cuda", "is not available", "driver"):
        cpu_only.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": device}))


def test_a_preference_list_falls_back_to_the_next_device(cpu_only: RunningServer) -> None:
    answered = parameters(cpu_only.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": "cuda,cpu"})))
    assert (answered["device"], answered["device_requested"], answered["route_reason"]) == ("cpu", "cuda,cpu", "preference")


@pytest.mark.parametrize("device", ["tpu", "CPU", "gpu:0", "cpu,tpu", "cpu,", ":", "cuda:", "cuda:a b", "x" * 100_000])
def test_51_an_unknown_device_is_refused_with_the_known_ones(server: RunningServer, device: str) -> None:
    with refused("INVALID_ARGUMENT", "this server has: cpu", "auto"):
        server.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": device}))


def test_51_an_empty_device_is_refused(server: RunningServer) -> None:
    with refused("INVALID_ARGUMENT", "device"):
        server.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": ""}))


def test_metadata_may_name_the_device_instead_of_a_parameter(cpu_only: RunningServer) -> None:
    answer = cpu_only.stub.ModelInfer(request("fp32_batch", ROW), metadata=[("device", "cpu")])
    assert parameters(answer)["device_requested"] == "cpu"
    with refused("FAILED_PRECONDITION"):
        cpu_only.stub.ModelInfer(request("fp32_batch", ROW), metadata=[("device", "cuda")])


def test_the_parameter_takes_precedence_over_the_metadata(server: RunningServer) -> None:
    message = request("fp32_batch", ROW, parameters={"device": "cpu"})
    assert parameters(server.stub.ModelInfer(message, metadata=[("device", "cuda")]))["device"] == "cpu"


def test_the_servers_default_device_applies_if_nothing_else_is_set(cpu_only: RunningServer, zoo: Path, transport: str) -> None:
    with running(zoo, "--default-device=cuda", transport=transport) as server:
        server.process.wait_for(r"requests that name no device will fail: --default-device=cuda: no NVIDIA driver")
        with refused("FAILED_PRECONDITION", "cuda"):
            server.stub.ModelInfer(request("fp32_batch", ROW))
        server.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": "cpu"}))


def test_a_declared_kind_works_like_a_built_in_kind(tmp_path: Path, transport: str) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text('default_device = "npu"\n[devices."npu:0"]\nprovider = "CPUExecutionProvider"\nthreads = 1\n')
    root = tmp_path / "models"
    models.save(root, "m", models.add_constant(1))
    only_npu = 'parameters { key: "turnout.devices" value { string_value: "npu" } }'
    models.save(root, "bound", models.add_constant(1), configuration=only_npu)
    row = {"x": np.ones((1, 2), np.float32)}
    with running(root, f"--config={file}", transport=transport) as server:
        for requested in ({}, {"device": "npu"}, {"device": "npu:0"}, {"device": "cuda:99,npu"}):
            assert parameters(server.stub.ModelInfer(request("m", row, parameters=requested)))["device"] == "npu:0"
        with refused("FAILED_PRECONDITION", "'npu:1' is not available"):
            server.stub.ModelInfer(request("m", row, parameters={"device": "npu:1"}))
        with refused("FAILED_PRECONDITION", "none is declared; [devices.'openvino:0'] in the --config file would declare one"):
            server.stub.ModelInfer(request("m", row, parameters={"device": "openvino"}))
        with refused("INVALID_ARGUMENT", "unknown device 'tpu'; this server has:", "npu:0"):
            server.stub.ModelInfer(request("m", row, parameters={"device": "tpu"}))
        with refused("FAILED_PRECONDITION", "not allowed on device 'cpu'", "['npu']"):
            server.stub.ModelInfer(request("bound", row, parameters={"device": "cpu"}))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('[devices."tensorrt:0"]', ["'tensorrt:0'", "has no TensorrtExecutionProvider", "CPUExecutionProvider"]),
        (
            '[devices."npu:0"]\nprovider = "X"\nlibrary = "no.so"',
            ["'npu:0'", "the library of X", "no.so", "CPUExecutionProvider"],
        ),
        ('[devices."azure:0"]\nprovider = "AzureExecutionProvider"', ["'azure:0'", "AzureExecutionProvider takes no part"]),
        ("[devices.cpu]\ndisabled = true", ["there is no device to run on: the settings disable cpu"]),
        (
            '[devices."cpu:x"]\nisolation = "process"\nmemory_limit_mb = 1',
            ["'cpu:x'", "memory_limit_mb = 1 may be too little for its process"],
        ),
        (
            "[devices.cpu]\nmemory_limit_mb = 100",
            ["turnout-server: [devices.'cpu'] cannot be declared", 'isolation = "process"'],
        ),
    ],
)
def test_a_declared_device_that_is_not_available_prevents_the_start(tmp_path: Path, table: str, words: list[str]) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text(table)
    command = [sys.executable, "-m", "turnout_server", f"--config={file}", f"--model-repository={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 2)
    for word in words:
        assert word in done.stderr
