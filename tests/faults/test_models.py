"""Model files that are broken, hostile, or change under a running server: refused with a reason, and nobody else notices."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from turnout_proto import inference_pb2 as pb

from benchmarks import fuzz
from tests import models
from tests.servers import RunningServer, running
from tests.wire import arrays, refused, request

X = np.zeros((1, 2), np.float32)
GOOD = models.add_constant(1)
#: Mutated models and configurations of one server; `make fuzz` tries more.
MUTANTS = 160


def weights_at(location: str, offset: str = "", length: str = "") -> bytes:
    """A model whose weights are said to be in another file."""
    model = models.mlp()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value:
            tensor.external_data.add(key=key, value=value)
    return model.SerializeToString()


def with_node(node: onnx.NodeProto, opset: int = 19, ir_version: int = 9, domain: str = "") -> bytes:
    """A model of one node from x to y, which no checker has seen."""
    tensor = (TensorProto.FLOAT, ("batch", "n"))
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", *tensor)], [helper.make_tensor_value_info("y", *tensor)]
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()


def cycle() -> bytes:
    model = models.add_constant(1)
    model.graph.node[0].input[1] = "y"
    return model.SerializeToString()


UNUSABLE = {
    "64-unknown-operator": with_node(helper.make_node("Nonesuch", ["x"], ["y"])),
    "64-future-opset": with_node(helper.make_node("Identity", ["x"], ["y"]), opset=999),
    "64-future-format": with_node(helper.make_node("Identity", ["x"], ["y"]), ir_version=999),
    "64-cycle": cycle(),
    "64-custom-domain": with_node(helper.make_node("Secret", ["x"], ["y"], domain="com.example"), domain="com.example"),
    "65-parent": weights_at("../../good/1/model.onnx"),
    "65-absolute": weights_at("/etc/passwd"),
    "65-environment": weights_at("/proc/self/environ"),
    "65-missing": weights_at("nowhere.bin"),
    "65-directory": weights_at("."),
    "65-empty": weights_at(""),
    "65-behind-the-end": weights_at("weights.bin", offset="4096"),
    "65-negative-offset": weights_at("weights.bin", offset="-1"),
    "65-offset-overflow": weights_at("weights.bin", offset=str(2**64 - 8)),
    "65-length-overflow": weights_at("weights.bin", length=str(2**63)),
    "65-wrong-length": weights_at("weights.bin", length="3"),
    "65-no-number": weights_at("weights.bin", offset="ten"),
    "65-link": weights_at("link.bin"),
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of models none of which can be used, and of one that can."""
    root = tmp_path_factory.mktemp("hostile")
    models.save(root, "good", GOOD)
    for name, content in UNUSABLE.items():
        models.save(root, name, content)
        (root / name / "1" / "weights.bin").write_bytes(bytes(64))
    (root / "65-link" / "1" / "link.bin").symlink_to("/etc/passwd")
    with running(root) as server:
        yield server


@pytest.mark.parametrize("name", UNUSABLE)
def test_64_65_a_model_that_cannot_be_used_says_why_and_the_others_answer(hostile: RunningServer, name: str) -> None:
    index = hostile.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
    (entry,) = (each for each in index if each.name == name)
    assert entry.state == "UNAVAILABLE"
    assert entry.reason
    assert "/etc/passwd" not in entry.reason.replace(name, "") or name in ("65-absolute", "65-link")
    with refused("FAILED_PRECONDITION", name):
        hostile.stub.ModelInfer(request(name, {"x": X}))
    assert arrays(hostile.stub.ModelInfer(request("good", {"x": X})))["y"].tolist() == [[1, 1]]


def test_66_a_small_file_that_wants_four_terabytes_harms_nobody(tmp_path: Path, transport: str) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    tensor = (TensorProto.FLOAT, ("batch", "n"))
    constants = {"shape": np.array([2**20, 2**20], np.int64)}
    models.save(tmp_path, "bomb", models.model(nodes, {"x": tensor}, {"y": tensor}, constants))
    models.save(tmp_path, "good", GOOD)
    with running(tmp_path, transport=transport) as server:
        resident = psutil.Process(server.process.pid).memory_info().rss
        state = {each.name: each.state for each in server.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}["bomb"]
        with refused("FAILED_PRECONDITION" if state == "UNAVAILABLE" else "RESOURCE_EXHAUSTED"):
            server.stub.ModelInfer(request("bomb", {"x": X}))
        assert arrays(server.stub.ModelInfer(request("good", {"x": X})))["y"].tolist() == [[1, 1]]
        assert psutil.Process(server.process.pid).memory_info().rss - resident < 64 << 20


@pytest.mark.parametrize("seed", [68, 69])
def test_68_mutated_models_and_configurations_load_or_say_why_and_end_nothing(seed: int) -> None:
    states = fuzz.fuzz_repository(seed, MUTANTS)
    assert states.total() == MUTANTS + 1
    assert states["UNAVAILABLE"] > MUTANTS / 10


def test_74_files_that_are_deleted_under_a_running_server_are_still_served(tmp_path: Path, transport: str) -> None:
    models.save(tmp_path, "gone", GOOD)
    with running(tmp_path, transport=transport) as server:
        shutil.rmtree(tmp_path / "gone")
        assert arrays(server.stub.ModelInfer(request("gone", {"x": X})))["y"].tolist() == [[1, 1]]
        assert [each.state for each in server.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models] == ["READY"]


def test_74_a_model_that_loses_its_files_is_unloaded_where_changes_are_followed(tmp_path: Path) -> None:
    for name in ("gone", "good"):
        models.save(tmp_path, name, GOOD)
    with running(tmp_path, "--model-control-mode=poll", "--repository-poll-s=0.1") as server:
        shutil.rmtree(tmp_path / "gone")
        until_s = time.monotonic() + 20
        while server.stub.ModelReady(pb.ModelReadyRequest(name="gone")).ready:
            assert time.monotonic() < until_s
            time.sleep(0.05)
        with refused("NOT_FOUND", "gone"):
            server.stub.ModelInfer(request("gone", {"x": X}))
        assert arrays(server.stub.ModelInfer(request("good", {"x": X})))["y"].tolist() == [[1, 1]]


def test_121_libraries_of_operators_are_never_loaded(tmp_path: Path) -> None:
    library = tmp_path / "operators.so"
    library.write_bytes(b"\x7fELF")
    text = f'model_operations {{ op_library_filename: "{library}" }}'
    models.save(tmp_path / "models", "m", GOOD, configuration=text)
    with running(tmp_path / "models") as server:
        with refused("FAILED_PRECONDITION", "libraries of custom operators: never loaded"):
            server.stub.ModelInfer(request("m", {"x": X}))
        assert str(library) not in Path(f"/proc/{server.process.pid}/maps").read_text()
