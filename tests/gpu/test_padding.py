"""Runs that are padded, captured as CUDA graphs or laid out differently give what the CPU gives."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from turnout_proto import inference_pb2 as pb

from tests import models
from tests.gpu.conftest import declared
from tests.servers import RunningServer, running
from tests.wire import arrays, parameters, request

#: As large as two ways to the same float32 may be apart, as a share of the largest value.
TOLERANCE = 1e-4


def report(server: RunningServer, model: str, device: str) -> str:
    """What loading the model showed on the device."""
    configuration = server.stub.ModelConfig(pb.ModelConfigRequest(name=model)).config
    return str(configuration.parameters[f"turnout.report.{device}"].string_value)


def assert_devices_agree(server: RunningServer, model: str, device: str, row: Sequence[int], sizes: Sequence[int]) -> None:
    """Asks the device and the CPU for the same rows, in these numbers, one after another."""
    generator = np.random.default_rng(0)
    for rows in sizes:
        inputs = {"x": generator.standard_normal((rows, *row)).astype(np.float32)}
        here = server.stub.ModelInfer(request(model, inputs, parameters={"device": device}), timeout=60)
        there = arrays(server.stub.ModelInfer(request(model, inputs, parameters={"device": "cpu"}), timeout=60))["y"]
        assert parameters(here)["device"] == device
        np.testing.assert_allclose(arrays(here)["y"], there, atol=TOLERANCE * np.abs(there).max(), rtol=0)


@pytest.mark.gpu
def test_a_replayed_run_gives_what_the_cpu_gives_again_and_again(gpu: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    models.save(tmp_path / "models", "mlp", models.mlp((64, 256, 256, 8)), configuration="max_batch_size: 16")
    models.save(tmp_path / "models", "loop", models.lazy(3))
    with running(tmp_path / "models", declared(tmp_path, gpu, "cuda_graph_rows = [1, 8]")) as server:
        assert "; runs are padded to 1, 8 rows" in report(server, "mlp", gpu)
        assert_devices_agree(server, "mlp", gpu, (64,), (1, 8, 3, 1, 16, 8, 2, 1) * 5)
        assert "; no CUDA graphs: " in report(server, "loop", gpu)
        x = {"x": np.ones((1, 2), np.float32)}
        answer = server.stub.ModelInfer(request("loop", x, parameters={"device": gpu}), timeout=60)
        np.testing.assert_array_equal(arrays(answer)["y"], x["x"])


@pytest.mark.gpu
def test_convolutions_are_padded_because_the_device_plans_them_for_every_size(gpu: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    models.save(tmp_path / "models", "conv", models.convolutions(), configuration="max_batch_size: 16")
    with running(tmp_path / "models", declared(tmp_path, gpu)) as server:
        assert "; runs are padded to 1, 2, 4, 8, 12, 16 rows" in report(server, "conv", gpu)
        assert_devices_agree(server, "conv", gpu, (3, 32, 32), (1, 16, 7, 3, 12, 2, 5, 9) * 4)


@pytest.mark.gpu
def test_runs_are_padded_in_the_servers_own_process_too(gpu: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    models.save(tmp_path / "models", "conv", models.convolutions(), configuration="max_batch_size: 4")
    with running(tmp_path / "models", declared(tmp_path, gpu, 'isolation = "in-process"')) as server:
        assert "; runs are padded to 1, 2, 4 rows" in report(server, "conv", gpu)
        assert_devices_agree(server, "conv", gpu, (3, 32, 32), (1, 4, 3, 2) * 4)
