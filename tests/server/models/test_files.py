"""The layout of a repository, Triton's or one bare model as KServe mounts it; the precision and size of files."""

import json
import os
import re
import shlex
from pathlib import Path

import onnx
import pytest
from onnx import helper
from turnout_server.core.errors import FailedPrecondition
from turnout_server.models.files import (
    ModelFiles,
    find_models,
    model_path,
    precision_of,
    require_own_files,
    why_empty,
)


def touch(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_75_models_are_directories_and_versions_are_positive_numbers(tmp_path: Path) -> None:
    for version in ("1", "12", "01", "0", "-1", "x", "²"):
        touch(tmp_path / "model" / version / "model.onnx")
    (tmp_path / "empty").mkdir()
    touch(tmp_path / ".hidden" / "1" / "model.onnx")
    touch(tmp_path / "README.md")
    found = find_models(tmp_path, "")
    assert {name: sorted(files.versions) for name, files in found.items()} == {"empty": [], "model": [1, 12]}
    assert found["model"].versions[12] == tmp_path / "model" / "12"


@pytest.mark.parametrize(
    "name", ["__pycache__", "lost+found", ".git", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "System Volume Information"]
)
def test_what_other_programs_leave_behind_is_no_model(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "model" / "1" / "model.onnx")
    touch(tmp_path / name / "1" / "model.onnx")
    assert list(find_models(tmp_path, "")) == ["model"]


def test_a_model_file_beside_the_version_directories_is_said_where_there_are_none(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "resnet.onnx")
    touch(tmp_path / "b" / "model.onnx")
    touch(tmp_path / "c" / "1" / "model.onnx")
    touch(tmp_path / "c" / "old.onnx")
    found = find_models(tmp_path, "")
    assert found["a"].error == "resnet.onnx must be in a version directory: move it to 1/model.onnx"
    assert found["b"].error == "model.onnx must be in a version directory: move it to 1/model.onnx"
    assert (found["c"].error, list(found["c"].versions)) == ("", [1])


def test_a_single_file_is_version_one_of_the_model_named(tmp_path: Path) -> None:
    file = touch(tmp_path / "resnet.onnx")
    touch(tmp_path / "other.onnx")
    assert find_models(file, "m") == {"m": ModelFiles(tmp_path, {1: tmp_path}, file="resnet.onnx")}


def test_only_a_single_file_and_its_weights_count_for_its_fingerprint(tmp_path: Path) -> None:
    file = touch(tmp_path / "resnet.onnx")
    before = find_models(file, "m")["m"].fingerprint()
    touch(tmp_path / "other.onnx", b"new")
    assert find_models(file, "m")["m"].fingerprint() == before
    touch(tmp_path / "resnet.onnx.data", b"new")
    assert find_models(file, "m")["m"].fingerprint() != before


@pytest.mark.parametrize(("file", "name"), [("resnet.onnx", "resnet"), ("my net.v2.onnx", "'my net'")])
def test_a_single_file_without_a_name_is_answered_with_the_commands_that_serve_it(tmp_path: Path, file: str, name: str) -> None:
    path = touch(tmp_path / file)
    with pytest.raises(FailedPrecondition) as refused:
        find_models(path, "")
    first, serve, _, make = str(refused.value).splitlines()
    assert first == f"{path} is one file, not a directory of models. To serve it:"
    assert serve.endswith(f"--model-name {name}")
    assert shlex.split(serve)[:3] == ["turnout-server", "--model-repository", str(path)]
    assert f"models/{name}/1/model.onnx && turnout-server --model-repository models" in make


def test_a_model_file_in_an_empty_repository_is_answered_with_the_command_that_serves_it(tmp_path: Path) -> None:
    assert why_empty(tmp_path) == "expected <model>/<version>/model.onnx in it"
    touch(tmp_path / "resnet.onnx")
    assert why_empty(tmp_path).endswith(
        f"; to serve resnet.onnx: turnout-server --model-repository {tmp_path}/resnet.onnx --model-name resnet"
    )


def test_the_file_of_a_model_may_be_in_a_directory_of_its_name(tmp_path: Path) -> None:
    plain = touch(tmp_path / "1" / "model.onnx")
    nested = touch(tmp_path / "2" / "model.onnx" / "model.onnx")
    named = touch(tmp_path / "3" / "net.onnx" / "model.onnx")
    assert model_path(tmp_path / "1", "model.onnx") == plain
    assert model_path(tmp_path / "2", "model.onnx") == nested
    assert model_path(tmp_path / "3", "net.onnx") == named


def test_weights_in_such_a_directory_count_for_the_fingerprint(tmp_path: Path) -> None:
    touch(tmp_path / "m" / "1" / "model.onnx" / "model.onnx")
    weights = touch(tmp_path / "m" / "1" / "model.onnx" / "weights.bin")
    before = find_models(tmp_path, "")["m"].fingerprint()
    os.utime(weights, ns=(1, 1))
    assert find_models(tmp_path, "")["m"].fingerprint() != before


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "there is no model.onnx in version directory '1'"),
        (["resnet.onnx"], "but resnet.onnx is: rename it, or set default_model_filename in config.pbtxt"),
        (["model.onnx/other.onnx"], "there is no model.onnx/model.onnx in version directory '1', but other.onnx is: rename it"),
        (["MODEL.ONNX"], "but MODEL.ONNX is: rename it"),
        (["model.pt", "notes.txt"], "but model.pt is: export it with turnout-export"),
        (["model.savedmodel/saved_model.pb"], "but model.savedmodel is: convert it to ONNX"),
        ([".hidden.onnx"], "there is no model.onnx in version directory '1'"),
    ],
)
def test_a_model_whose_file_is_missing_is_told_what_is_there(tmp_path: Path, files: list[str], words: str) -> None:
    (tmp_path / "1").mkdir()
    for file in files:
        touch(tmp_path / "1" / file)
    with pytest.raises(FailedPrecondition, match=re.escape(words)):
        model_path(tmp_path / "1", "model.onnx")


def model_with(link: Path, to: Path) -> ModelFiles:
    """The files of model `m` in `link`'s repository, in which that path is a link."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(to)
    root = next(parent for parent in link.parents if parent.name == "models")
    return find_models(root, "")["m"]


@pytest.mark.parametrize(
    "link", ["model.onnx", "model.onnx/model.onnx", "golden.npz", "model.json", "weights/w.bin", "weights"]
)
def test_a_link_out_of_the_models_directory_is_refused_unless_links_are_followed(tmp_path: Path, link: str) -> None:
    files = model_with(tmp_path / "models" / "m" / "1" / link, touch(tmp_path / "outside"))
    require_own_files(files)
    with pytest.raises(FailedPrecondition, match=f"^{link} leads out of its model's directory; .*--follow-links"):
        require_own_files(files, 1)
    require_own_files(files, 1, follow_links=True)


@pytest.mark.parametrize("link", ["config.pbtxt", "labels.txt", "warmup/input", "warmup"])
def test_a_link_beside_the_versions_is_refused_too(tmp_path: Path, link: str) -> None:
    touch(tmp_path / "models" / "m" / "1" / "model.onnx")
    files = model_with(tmp_path / "models" / "m" / link, touch(tmp_path / "outside"))
    with pytest.raises(FailedPrecondition, match=f"^{link} leads out of its model's directory"):
        require_own_files(files)
    require_own_files(files, 1)


def test_a_link_to_a_neighbour_whose_name_begins_alike_is_refused(tmp_path: Path) -> None:
    files = model_with(tmp_path / "models" / "m" / "1" / "model.onnx", touch(tmp_path / "models" / "m2" / "1" / "model.onnx"))
    with pytest.raises(FailedPrecondition, match="leads out"):
        require_own_files(files, 1)


@pytest.mark.parametrize("target", ["../2/model.onnx", "../shared.onnx", "other.onnx", "missing.onnx"])
def test_links_inside_the_models_directory_are_followed(tmp_path: Path, target: str) -> None:
    for name in ("2/model.onnx", "shared.onnx", "1/other.onnx"):
        touch(tmp_path / "models" / "m" / name)
    require_own_files(model_with(tmp_path / "models" / "m" / "1" / "model.onnx", Path(target)), 1)


@pytest.mark.parametrize("link", ["m", "m/1"])
def test_links_to_directories_of_models_and_versions_are_followed_alike(tmp_path: Path, link: str) -> None:
    touch(tmp_path / "elsewhere" / "model.onnx")
    touch(tmp_path / "elsewhere" / "1" / "model.onnx")
    files = model_with(tmp_path / "models" / link, tmp_path / "elsewhere")
    require_own_files(files)
    require_own_files(files, 1)


def test_the_files_of_a_mounted_kubernetes_volume_need_no_setting(tmp_path: Path) -> None:
    root = tmp_path / "models"
    touch(root / "..2027_01_01" / "model.onnx")
    (root / "..data").symlink_to("..2027_01_01")
    (root / "model.onnx").symlink_to("..data/model.onnx")
    files = find_models(root, "m")["m"]
    require_own_files(files)
    require_own_files(files, 1)


def test_the_neighbours_of_a_single_file_do_not_matter(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/")
    files = find_models(touch(tmp_path / "model.onnx"), "m")["m"]
    require_own_files(files)
    require_own_files(files, 1)
    (tmp_path / "config.pbtxt").symlink_to("/etc/hostname")
    with pytest.raises(FailedPrecondition, match=r"config\.pbtxt leads out"):
        require_own_files(files)


def test_a_bare_file_is_version_one_of_the_model_named(tmp_path: Path) -> None:
    touch(tmp_path / "model.onnx")
    assert find_models(tmp_path, "m")["m"].versions == {1: tmp_path}


def test_bare_version_directories_are_those_of_the_model_named(tmp_path: Path) -> None:
    touch(tmp_path / "3" / "model.onnx")
    assert find_models(tmp_path, "m")["m"].versions == {3: tmp_path / "3"}


@pytest.mark.parametrize("file", ["model.onnx", "1/model.onnx"])
def test_a_bare_model_without_a_name_is_refused_with_the_flag(tmp_path: Path, file: str) -> None:
    touch(tmp_path / file)
    with pytest.raises(FailedPrecondition, match="--model-name"):
        find_models(tmp_path, "")


def test_a_name_for_a_directory_of_models_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "model" / "1" / "model.onnx")
    with pytest.raises(FailedPrecondition, match="--model-name is given"):
        find_models(tmp_path, "m")


def test_the_fingerprint_changes_with_every_file_of_the_model(tmp_path: Path) -> None:
    seen = []

    def look() -> None:
        seen.append(find_models(tmp_path, "")["m"].fingerprint())

    touch(tmp_path / "m" / "1" / "model.onnx")
    look()
    touch(tmp_path / "m" / "config.pbtxt")
    look()
    weights = touch(tmp_path / "m" / "1" / "weights.bin")
    look()
    os.utime(weights, ns=(1, 1))
    look()
    touch(tmp_path / "m" / "2" / "model.onnx")
    look()
    assert len(set(seen)) == len(seen)
    look()
    assert seen[-1] == seen[-2]


@pytest.mark.parametrize(
    ("file", "precision"),
    [
        ("model.onnx", "fp32"),
        ("model.fp16.onnx", "fp16"),
        ("model.int8.onnx", "int8"),
        ("model..onnx", "fp32"),
        ("other.fp16.onnx", "fp32"),
        ("model.fp16.onnx.data", "fp32"),
        ("model", "fp32"),
    ],
)
def test_without_a_manifest_the_file_name_gives_the_precision(tmp_path: Path, file: str, precision: str) -> None:
    assert precision_of(tmp_path, file) == precision


#: Bytes of a value, by element type.
SIZES = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.BFLOAT16: 2, onnx.TensorProto.INT64: 8}


def weighing(element_type: onnx.TensorProto.DataType, *nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A model that adds a weight of this type, after these nodes; its other initializer is a shape."""
    value = helper.make_tensor_value_info
    weight = helper.make_tensor("w", element_type, [1], bytes(SIZES[element_type]), raw=True)
    shape = helper.make_tensor("s", onnx.TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [*nodes, helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [value("x", element_type, [1])],
        [value("y", element_type, [1])],
        [shape, weight],
    )
    return helper.make_model(graph)


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        (weighing(onnx.TensorProto.FLOAT), "fp32"),
        (weighing(onnx.TensorProto.FLOAT16), "fp16"),
        (weighing(onnx.TensorProto.BFLOAT16), "bf16"),
        (weighing(onnx.TensorProto.FLOAT, helper.make_node("DequantizeLinear", ["q", "scale"], ["d"])), "int8"),
        (weighing(onnx.TensorProto.FLOAT, helper.make_node("QLinearConv", ["q"] * 8, ["d"])), "int8"),
        (weighing(onnx.TensorProto.INT64), "fp32"),
    ],
)
def test_where_nothing_states_the_precision_the_weights_do(tmp_path: Path, model: onnx.ModelProto, precision: str) -> None:
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert precision_of(tmp_path, "model.onnx") == precision
    (tmp_path / "model.json").write_text(json.dumps({"files": {"model.onnx": {"precision": "fp8"}}}))
    assert precision_of(tmp_path, "model.onnx") == "fp8"


def test_the_manifest_overrides_the_file_name_for_the_files_it_lists(tmp_path: Path) -> None:
    files = {"model.onnx": {"precision": "bf16"}, "model.fp16.onnx": {"sha256": "..."}}
    (tmp_path / "model.json").write_text(json.dumps({"schema_version": 1, "files": files}))
    assert precision_of(tmp_path, "model.onnx") == "bf16"
    assert precision_of(tmp_path, "model.fp16.onnx") == "fp16"
    assert precision_of(tmp_path, "model.int8.onnx") == "int8"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"5",
        b'"files"',
        b'{"files": null}',
        b'{"files": []}',
        b'{"files": {"model.fp16.onnx": 5}}',
        b'{"files": {"model.fp16.onnx": []}}',
        b'{"files": {"model.fp16.onnx": {"precision": null}}}',
        b'{"files": {"model.fp16.onnx": {"precision": 16}}}',
        b'{"files": {"model.fp16.onnx": {"precision": ""}}}',
        b"[" * 100_000,
    ],
    ids=lambda content: content[:40].decode(errors="replace"),
)
def test_an_invalid_manifest_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.json").write_bytes(content)
    assert precision_of(tmp_path, "model.fp16.onnx") == "fp16"


def test_an_unreadable_manifest_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "model.json").mkdir()
    assert precision_of(tmp_path, "model.onnx") == "fp32"
