"""A request runs where it asks to, or fails and says why: the CPU never stands in for a GPU in silence."""

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
    """Skips where the machine has a GPU: these tests are about its absence."""
    if "cuda" in server.process.log and "cuda: not available" not in server.process.log:
        pytest.skip("this machine has a CUDA device")
    return server


def test_each_request_says_where_it_ran_and_why(server: RunningServer) -> None:
    for asked, reason in [("cpu", "requested"), ("cpu,auto", "preference"), (" cpu , cpu ", "preference")]:
        said = parameters(server.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": asked})))
        assert (said["device"], said["device_requested"], said["route_reason"]) == ("cpu", asked, reason)


def test_auto_takes_the_only_device_there_is(cpu_only: RunningServer) -> None:
    for asked in ({}, {"device": "auto"}):
        said = parameters(cpu_only.stub.ModelInfer(request("fp32_batch", ROW, parameters=asked)))
        assert (said["device"], said["route_reason"]) == ("cpu", "only-device")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:99", "cuda,cuda:1"])
def test_a_gpu_that_is_not_there_is_refused_with_the_reason(cpu_only: RunningServer, device: str) -> None:
    with refused("FAILED_PRECONDITION", "'cuda", "is not available", "driver"):
        cpu_only.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": device}))


def test_a_preference_moves_on_to_the_next_device(cpu_only: RunningServer) -> None:
    said = parameters(cpu_only.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": "cuda,cpu"})))
    assert (said["device"], said["device_requested"], said["route_reason"]) == ("cpu", "cuda,cpu", "preference")


@pytest.mark.parametrize("device", ["tpu", "CPU", "gpu:0", "cpu,tpu", "cpu,", ":", "cuda:", "cuda:a b", "x" * 100_000])
def test_a_name_that_is_no_device_is_refused_with_those_that_are(server: RunningServer, device: str) -> None:
    with refused("INVALID_ARGUMENT", "this server has: cpu", "auto"):
        server.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": device}))


def test_an_empty_device_is_refused(server: RunningServer) -> None:
    with refused("INVALID_ARGUMENT", "device"):
        server.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": ""}))


def test_metadata_names_the_device_for_clients_without_parameters(cpu_only: RunningServer) -> None:
    answer = cpu_only.stub.ModelInfer(request("fp32_batch", ROW), metadata=[("device", "cpu")])
    assert parameters(answer)["device_requested"] == "cpu"
    with refused("FAILED_PRECONDITION"):
        cpu_only.stub.ModelInfer(request("fp32_batch", ROW), metadata=[("device", "cuda")])


def test_the_parameter_wins_over_the_metadata(server: RunningServer) -> None:
    asks_cpu = request("fp32_batch", ROW, parameters={"device": "cpu"})
    assert parameters(server.stub.ModelInfer(asks_cpu, metadata=[("device", "cuda")]))["device"] == "cpu"


def test_the_servers_default_applies_where_nothing_else_does(cpu_only: RunningServer, zoo: Path, transport: str) -> None:
    with running(zoo, "--default-device=cuda", transport=transport) as server:
        server.process.wait_for(r"requests that name no device will fail: --default-device=cuda: no NVIDIA driver")
        with refused("FAILED_PRECONDITION", "cuda"):
            server.stub.ModelInfer(request("fp32_batch", ROW))
        server.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": "cpu"}))


def test_a_kind_that_only_a_declaration_knows_is_a_kind_like_any_other(tmp_path: Path, transport: str) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text('default_device = "npu"\n[devices."npu:0"]\nprovider = "CPUExecutionProvider"\nthreads = 1\n')
    root = tmp_path / "models"
    models.save(root, "m", models.add_constant(1))
    only_there = 'parameters { key: "turnout.devices" value { string_value: "npu" } }'
    models.save(root, "bound", models.add_constant(1), configuration=only_there)
    row = {"x": np.ones((1, 2), np.float32)}
    with running(root, f"--config={file}", transport=transport) as server:
        for asked in ({}, {"device": "npu"}, {"device": "npu:0"}, {"device": "cuda:99,npu"}):
            assert parameters(server.stub.ModelInfer(request("m", row, parameters=asked)))["device"] == "npu:0"
        with refused("FAILED_PRECONDITION", "'npu:1' is not available"):
            server.stub.ModelInfer(request("m", row, parameters={"device": "npu:1"}))
        with refused("FAILED_PRECONDITION", "the --config file declares none; it would as [devices.'openvino:0']"):
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
        ("[devices.cpu]\ndisabled = true", ["there is no device to run on: the --config file disables cpu"]),
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
def test_a_device_that_cannot_be_had_keeps_the_server_from_starting(tmp_path: Path, table: str, words: list[str]) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text(table)
    command = [sys.executable, "-m", "turnout_server", f"--config={file}", f"--model-repository={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 2)
    for word in words:
        assert word in done.stderr
