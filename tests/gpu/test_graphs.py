"""What a CUDA graph replays is what a plain run gives."""

from pathlib import Path

import numpy as np
import pytest
from turnout_proto import inference_pb2 as pb

from tests import models
from tests.gpu.conftest import declared
from tests.servers import running
from tests.wire import arrays, parameters, request

#: As large as two ways to the same float32 may be apart, as a share of the largest value.
TOLERANCE = 1e-4


@pytest.mark.gpu
def test_a_replayed_run_gives_what_the_cpu_gives_again_and_again(gpu: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    models.save(tmp_path / "models", "mlp", models.mlp((64, 256, 256, 8)), configuration="max_batch_size: 16")
    models.save(tmp_path / "models", "loop", models.lazy(3))
    generator = np.random.default_rng(0)
    with running(tmp_path / "models", declared(tmp_path, gpu, "cuda_graph_rows = [1, 8]")) as server:
        shown = server.stub.ModelConfig(pb.ModelConfigRequest(name="mlp")).config.parameters[f"turnout.report.{gpu}"]
        assert shown.string_value.endswith("CUDA graph for 1 rows: yes; CUDA graph for 8 rows: yes")
        for rows in (1, 8, 3, 1, 16, 8, 2, 1) * 5:
            inputs = {"x": generator.standard_normal((rows, 64)).astype(np.float32)}
            here = server.stub.ModelInfer(request("mlp", inputs, parameters={"device": gpu}))
            there = arrays(server.stub.ModelInfer(request("mlp", inputs, parameters={"device": "cpu"})))["y"]
            assert parameters(here)["device"] == gpu
            np.testing.assert_allclose(arrays(here)["y"], there, atol=TOLERANCE * np.abs(there).max(), rtol=0)
        looping = server.stub.ModelConfig(pb.ModelConfigRequest(name="loop")).config.parameters[f"turnout.report.{gpu}"]
        assert "CUDA graph for 1 rows: none: " in looping.string_value
        x = {"x": np.ones((1, 2), np.float32)}
        answer = server.stub.ModelInfer(request("loop", x, parameters={"device": gpu}))
        np.testing.assert_array_equal(arrays(answer)["y"], x["x"])
