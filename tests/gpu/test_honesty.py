"""What runs on a GPU really does; without its libraries there is none, and the CPU never stands in for it."""

import os
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests import models
from tests.gpu.conftest import OPENVINO, declared
from tests.servers import Process, RunningServer, running
from tests.wire import arrays, parameters, refused, request

ROOT = Path(__file__).parents[2]
#: As large as two ways to the same float32 may be apart, as a share of the largest value.
TOLERANCE = 1e-4
X = np.random.default_rng(5).standard_normal((4, 8)).astype(np.float32)


def metrics(server: RunningServer) -> str:
    with urllib.request.urlopen(f"{server.monitoring}/metrics", timeout=10) as page:
        return str(page.read().decode())


def test_every_answer_names_the_device_and_is_the_cpus(server: RunningServer, device: str) -> None:
    here = server.stub.ModelInfer(request("undescribed", {"x": X}))
    assert parameters(here)["device"] == device
    there = server.stub.ModelInfer(request("undescribed", {"x": X}, parameters={"device": "cpu"}))
    np.testing.assert_allclose(arrays(here)["y"], arrays(there)["y"], atol=TOLERANCE * np.abs(arrays(there)["y"]).max(), rtol=0)


@pytest.mark.parametrize("name", ["digits-cnn", "digits-lstm", "resnet50"])
def test_a_demo_model_gives_what_pytorch_gave(name: str, device: str, tmp_path: Path) -> None:
    if not (ROOT / "models" / name).is_dir():
        pytest.skip(f"there is no models/{name}; make demo exports it")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / name).symlink_to(ROOT / "models" / name)
    with (
        running(tmp_path / "models", declared(tmp_path, device)) as server,
        np.load(ROOT / "models" / name / "1" / "golden.npz") as golden,
    ):
        for point in {key.partition("/")[0] for key in golden}:
            inputs = {key.rpartition("/")[2]: golden[key] for key in golden if key.startswith(f"{point}/in/")}
            for place in (device, "cpu"):
                answer = arrays(server.stub.ModelInfer(request(name, inputs, parameters={"device": place})))
                for output, got in answer.items():
                    want = golden[f"{point}/out/{output}"]
                    np.testing.assert_allclose(got, want, atol=TOLERANCE * np.abs(want).max(), rtol=0)


def test_runs_of_several_instances_do_not_disturb_each_other(zoo: Path, device: str, tmp_path: Path) -> None:
    with running(zoo, declared(tmp_path, device, "instances = 3"), f"--default-device={device}") as server:
        calls = [server.stub.ModelInfer.future(request("undescribed", {"x": X * n})) for n in range(100)]
        for n, call in enumerate(calls):
            alone = arrays(server.stub.ModelInfer(request("undescribed", {"x": X * n}, parameters={"device": "cpu"})))["y"]
            np.testing.assert_allclose(arrays(call.result())["y"], alone, atol=TOLERANCE * (np.abs(alone).max() + 1), rtol=0)


def test_a_request_and_a_model_beyond_the_memory_limit_are_refused_with_the_numbers(device: str, tmp_path: Path) -> None:
    if device == OPENVINO:
        pytest.skip("memory_limit_mb is for CPU and CUDA devices")
    (tmp_path / "models").mkdir()
    models.save(tmp_path / "models", "fill", models.fill())
    models.save(tmp_path / "models", "large", models.mlp((8, 4_000_000, 2)))  # 168 MB
    with running(tmp_path / "models", declared(tmp_path, device, "memory_limit_mb = 128")) as server:
        for model, inputs in {"fill": {"shape": np.array([2**14, 2**14])}, "large": {"x": X}}.items():
            with refused("RESOURCE_EXHAUSTED", f"'{device}', which may take 128 MiB"):
                server.stub.ModelInfer(request(model, inputs, parameters={"device": device}))
        small = request("fill", {"shape": np.array([2, 2])}, parameters={"device": device})
        assert parameters(server.stub.ModelInfer(small))["device"] == device
        assert parameters(server.stub.ModelInfer(request("large", {"x": X}, parameters={"device": "cpu"})))["device"] == "cpu"


@pytest.mark.gpu
def test_the_nodes_of_a_graph_are_on_the_gpu(gpu: str, zoo: Path, tmp_path: Path) -> None:
    with running(zoo, declared(tmp_path, gpu)) as server:
        nodes = dict(re.findall(r'turnout_model_nodes{device="cuda:0",model="undescribed",(.*)} (.*)', metrics(server)))
    assert [name for name in nodes if "CPUExecutionProvider" in name] == []
    assert [name for name in nodes if "CUDAExecutionProvider" in name] != []


@pytest.mark.gpu
def test_the_driver_tells_what_each_gpu_does(gpu: str, zoo: Path, tmp_path: Path) -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    with running(zoo, declared(tmp_path, gpu)) as server:
        text = metrics(server)
    for name in ("utilization", "memory_total_bytes", "memory_used_bytes", "power_usage", "power_limit"):
        assert re.search(rf'^nv_gpu_{name}{{gpu_uuid="GPU-.*"}} ', text, re.MULTILINE), name
    assert re.search(r'^nv_energy_consumption{gpu_uuid="GPU-.*"} ', text, re.MULTILINE)


@pytest.fixture
def without_libraries(gpu: str, tmp_path: Path) -> dict[str, str]:
    """An environment in which cuBLAS and cuDNN can't be loaded: what is found first is no library."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("libcublasLt.so.12", "libcublasLt.so.13", "libcublas.so.12", "libcublas.so.13", "libcudnn.so.9"):
        (broken / name).touch()
    hidden = os.pathsep.join([str(Path(__file__).parent / "hidden"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": hidden, "LD_LIBRARY_PATH": str(broken), "ORT_DISABLE_TELEMETRY": "1", "ORT_TELEMETRY_DISABLED": "1"}


@pytest.mark.gpu
def test_a_gpu_without_its_libraries_is_missing_and_the_cpu_does_not_stand_in(
    without_libraries: dict[str, str], zoo: Path
) -> None:
    with running(zoo, env=without_libraries) as server:
        reason = server.process.wait_for(r"cuda: not available: (.+)")[1]
        for asked in ("cuda", "cuda:0"):
            with refused("FAILED_PRECONDITION", f"'{asked}' is not available: {reason}"):
                server.stub.ModelInfer(request("undescribed", {"x": X}, parameters={"device": asked}))
        assert parameters(server.stub.ModelInfer(request("undescribed", {"x": X})))["device"] == "cpu"


@pytest.mark.gpu
def test_a_declared_gpu_without_its_libraries_ends_the_start(
    without_libraries: dict[str, str], gpu: str, zoo: Path, tmp_path: Path
) -> None:
    ports = ["--grpc-port=0", "--metrics-port=0"]
    process = Process(f"--model-repository={zoo}", *ports, declared(tmp_path, gpu), env=without_libraries)
    try:
        assert process.wait() != 0
        assert f"[devices.{gpu!r}] does not work" in process.log
    finally:
        process.end()
