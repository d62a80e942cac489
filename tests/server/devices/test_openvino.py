import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from turnout_server.core.datatypes import DATATYPES
from turnout_server.core.signatures import TensorSpec
from turnout_server.devices import device as devices
from turnout_server.devices import openvino
from turnout_server.devices.openvino import configured, library, with_threads

DEVICE = replace(openvino.openvino("/nowhere/libopenvino.so"), threads=4)


def options(device: devices.Device) -> dict[str, dict[str, str]]:
    loaded: dict[str, dict[str, str]] = json.loads(device.provider_options[openvino.OPTION])
    return loaded


def test_the_plug_in_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library() == ""
    package = tmp_path / openvino.MODULE
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    assert library() == ""  # a broken installation
    file = package / "libonnxruntime_providers_openvino_plugin.so"
    file.touch()
    assert library() == str(file)


def test_runs_keep_the_precision_of_the_file_and_the_threads_of_the_device() -> None:
    assert options(configured(DEVICE, None)) == {"CPU": {"EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_NUM_THREADS": "4"}}
    assert options(configured(replace(DEVICE, threads=0, cpus=(0, 1)), None))["CPU"]["INFERENCE_NUM_THREADS"] == "2"
    assert options(configured(replace(DEVICE, hardware="gpu"), None)) == {"GPU": {"EXECUTION_MODE_HINT": "ACCURACY"}}


def test_compiled_models_are_kept_in_the_cache_directory(tmp_path: Path) -> None:
    assert options(configured(DEVICE, tmp_path))["CPU"]["CACHE_DIR"] == str(tmp_path / "openvino")


@pytest.mark.parametrize(
    "device",
    [
        devices.cpu(),
        replace(DEVICE, library=""),
        replace(DEVICE, provider_options={openvino.OPTION: '{"CPU": {}}'}),
        replace(DEVICE, provider="VendorExecutionProvider"),
    ],
    ids=["another provider", "built in", "options of its own", "another plug-in"],
)
def test_other_devices_and_options_that_were_given_are_left_alone(device: devices.Device) -> None:
    assert configured(device, Path("/cache")) == device


def test_a_model_may_have_its_own_number_of_threads() -> None:
    given = configured(DEVICE, None).provider_options
    assert json.loads(with_threads(given, 1)[openvino.OPTION])["CPU"]["INFERENCE_NUM_THREADS"] == "1"
    on_gpu = configured(replace(DEVICE, hardware="gpu"), None).provider_options
    assert with_threads(on_gpu, 1) == on_gpu


def test_models_of_text_are_refused_because_the_plug_in_crashes_on_them() -> None:
    numbers, texts = (TensorSpec(name, DATATYPES[datatype], (-1,)) for name, datatype in (("x", "INT64"), ("s", "BYTES")))
    assert openvino.refusal(DEVICE, (numbers,)) is None
    assert openvino.refusal(devices.cpu(), (numbers, texts)) is None
    assert openvino.refusal(DEVICE, (numbers, texts)) == (
        "'s' is text, which crashes the plug-in of OpenVINOExecutionProvider; it runs on the CPU"
    )


def written(tmp_path: Path, *nodes: onnx.NodeProto, inputs: Sequence[str] = ("x", "y")) -> Path:
    """A file of these nodes, which nothing has checked."""
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs]
    output = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)
    constant = numpy_helper.from_array(np.array([2], np.int64), "two")
    graph = helper.make_graph(nodes, "g", tensors, [output], [constant])
    file = tmp_path / "model.onnx"
    file.write_bytes(helper.make_model(graph, ir_version=9).SerializeToString())
    return file


def conditional(node: onnx.NodeProto) -> onnx.NodeProto:
    """The same node, in both branches of an If."""
    branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)])
    return helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)


DOUBTFUL = {
    "bits": helper.make_node("BitShift", ["x", "y"], ["z"], direction="LEFT"),
    "boxes": helper.make_node("NonMaxSuppression", ["x", "y"], ["z"]),
    "repeats": helper.make_node("Tile", ["x", "y"], ["z"]),
    "sizes": helper.make_node("Resize", ["x", "", "", "y"], ["z"]),
    "antialias": helper.make_node("Resize", ["x", "", "two"], ["z"], antialias=1),
    "aspect": helper.make_node("Resize", ["x", "", "", "two"], ["z"], keep_aspect_ratio_policy="not_larger"),
    "in a branch": conditional(helper.make_node("BitShift", ["x", "y"], ["z"], direction="RIGHT")),
}


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_operators_that_are_wrong_for_some_values_are_in_doubt_on_the_plug_in_only(tmp_path: Path, kind: str) -> None:
    file = written(tmp_path, DOUBTFUL[kind])
    assert openvino.doubt(DEVICE, file)
    assert openvino.doubt(devices.cpu(), file) is None


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Tile", ["x", "two"], ["z"]),
        helper.make_node("Resize", ["x", "", "two"], ["z"], antialias=0),
        helper.make_node("Add", ["x", "y"], ["z"]),
    ],
    ids=["fixed repeats", "plain resize", "add"],
)
def test_operators_that_are_right_whatever_the_values_are_in_no_doubt(tmp_path: Path, node: onnx.NodeProto) -> None:
    assert openvino.doubt(DEVICE, written(tmp_path, node)) is None


def test_a_file_that_cannot_be_read_is_left_to_onnx_runtime(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"<html>")
    assert openvino.doubt(DEVICE, tmp_path / "model.onnx") is None
    assert not openvino.reduces(DEVICE, tmp_path / "model.onnx")


def test_a_model_that_reduces_is_noticed_on_the_plug_in_only(tmp_path: Path) -> None:
    file = written(tmp_path, helper.make_node("ReduceMax", ["x"], ["z"]))
    assert openvino.reduces(DEVICE, file)
    assert not openvino.reduces(devices.cpu(), file)
    assert not openvino.reduces(DEVICE, written(tmp_path, helper.make_node("Add", ["x", "y"], ["z"])))
