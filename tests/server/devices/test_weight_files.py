"""The files of a model: which they are, their size, and whether they are still the same."""

import os
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from turnout_server.core.errors import FailedPrecondition
from turnout_server.devices import onnx_graph
from turnout_server.devices.weight_files import WeightFiles

from tests import models


def saved(folder: Path, location: str = "") -> Path:
    """A model in this folder, with its weights in a file of their own if that has a name."""
    folder.mkdir(exist_ok=True)
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(models.mlp(), path, save_as_external_data=bool(location), location=location or None, size_threshold=0)
    return path


def naming(location: str, *, in_a_constant: bool = False) -> onnx.ModelProto:
    """A model with a tensor that is said to be in this file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    if in_a_constant:
        return helper.make_model(helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "g", [], [output]))
    return helper.make_model(helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [tensor]))


@pytest.mark.parametrize("location", ["", "model.onnx.data", "weights.bin"])
def test_they_are_the_model_and_the_files_that_it_names(tmp_path: Path, location: str) -> None:
    model = saved(tmp_path, location)
    for other in ("labels.txt", "golden.npz", "model.fp16.onnx", "other.data"):
        (tmp_path / other).write_bytes(bytes(1000))
    files = WeightFiles.of(model)
    assert files.paths == [model, *([tmp_path / location] if location else [])]
    assert files.bytes == sum(path.stat().st_size for path in files.paths)


def test_tensors_of_nodes_count_too(tmp_path: Path) -> None:
    (tmp_path / "c.bin").write_bytes(bytes(4))
    onnx.save(naming("c.bin", in_a_constant=True), tmp_path / "model.onnx")
    assert WeightFiles.of(tmp_path / "model.onnx").paths == [tmp_path / "model.onnx", tmp_path / "c.bin"]


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret", "more/../../secret", "nothing.bin", "nul\0.bin"])
def test_files_out_of_the_models_directory_or_not_there_do_not_count(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "1"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(naming(location).SerializeToString())
    assert WeightFiles.of(folder / "model.onnx").paths == [folder / "model.onnx"]


def test_names_that_are_not_utf_8_beside_it_do_no_harm(tmp_path: Path) -> None:
    model = saved(tmp_path)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.bin")).write_bytes(b"x")
    assert WeightFiles.of(model).paths == [model]


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_file_that_is_no_model_has_its_own_size(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    assert WeightFiles.of(tmp_path / "model.onnx").bytes == len(content or b"")


@pytest.mark.parametrize("changed", ["model.onnx", "weights.bin"])
@pytest.mark.parametrize("how", ["written", "replaced", "removed"])
def test_a_file_that_has_changed_is_named(tmp_path: Path, changed: str, how: str) -> None:
    files = WeightFiles.of(saved(tmp_path, "weights.bin"))
    files.require_unchanged()
    path = tmp_path / changed
    if how == "removed":
        path.unlink()
    elif how == "written":
        path.write_bytes(path.read_bytes() + b"\0")
    else:
        other = tmp_path / "new"
        other.write_bytes(path.read_bytes())
        os.utime(other, ns=(0, path.stat().st_mtime_ns + 1))
        other.replace(path)
    with pytest.raises(FailedPrecondition, match=f"^{changed} has changed since the model began to load"):
        files.require_unchanged()


def test_a_file_is_read_once_for_as_long_as_it_does_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reads = saved(tmp_path, "weights.bin"), list[Path]()
    read = onnx_graph.read

    def counted(path: Path) -> onnx_graph.Model:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(onnx_graph, "read", counted)
    assert [WeightFiles.of(model) for _ in range(3)] == [WeightFiles.of(model)] * 3
    assert onnx_graph.weights_of(model) == onnx_graph.Weights("fp32", frozenset({"weights.bin"}))
    assert reads == [model]
    saved(tmp_path)
    os.utime(model, ns=(0, 1))
    assert WeightFiles.of(model).paths == [model]
    assert reads == [model, model]
