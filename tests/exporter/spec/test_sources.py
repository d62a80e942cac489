from pathlib import Path
from zipfile import ZipFile

import pytest
from turnout_exporter.errors import SpecError
from turnout_exporter.spec.sources import Function, Kind, Source, parse_kwarg


@pytest.mark.parametrize("text", ["model", "model:", ":build", "model:two words"])
def test_a_source_without_a_name_in_it_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="names no class, function or model: write module:attr"):
        Source.parse(text)


def test_a_python_file_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    with pytest.raises(SpecError, match="names no class, function or model"):
        Source.parse(str(tmp_path / "model.py"))


@pytest.mark.parametrize("text", ["nowhere.py:build", "nowhere.onnx", "nowhere.pt2"])
def test_a_missing_file_is_named(text: str) -> None:
    with pytest.raises(SpecError, match=f"there is no file {text.partition(':')[0]}"):
        Source.parse(text)


@pytest.mark.parametrize(("name", "kind"), [("m.onnx", Kind.ONNX), ("m.pt2", Kind.PROGRAM)])
def test_a_file_is_known_by_its_suffix(tmp_path: Path, name: str, kind: Kind) -> None:
    (tmp_path / name).touch()
    assert Source.parse(str(tmp_path / name)) == Source(kind, str(tmp_path / name))


def test_a_folder_with_a_configuration_is_a_pretrained_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert Source.parse(str(tmp_path)).kind is Kind.PRETRAINED


def test_an_attribute_may_be_one_of_a_class() -> None:
    assert Source.parse("pkg.mod:Net.small") == Source(Kind.PYTHON, "pkg.mod", "Net.small")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("w.safetensors", "weights without a model.*--weights"),
        ("m.keras", r"model.export\(file, format='onnx'\)"),
        ("m.h5", "a Keras file"),
        ("m.pb", "tf2onnx"),
        ("m.tflite", "tf2onnx"),
        ("m.pkl", "a pickle, which runs code"),
        ("m.caffemodel", "no converter is maintained"),
        ("m.txt", "a file of a kind that can't be exported"),
        ("w.pt", "weights, or a pickled model, whose loading would run any code.*--weights"),
    ],
)
def test_what_a_file_is_instead_of_a_source_is_said_with_the_way_out(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(SpecError, match=complaint):
        Source.parse(str(tmp_path / name))


def test_torchscript_is_told_from_weights_by_its_archive(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/constants.pkl", b"")
    with pytest.raises(SpecError, match=r"a TorchScript file, which can't be exported.*torch.export.save"):
        Source.parse(str(tmp_path / "m.pt"))


@pytest.mark.parametrize(("file", "complaint"), [("saved_model.pb", "tf2onnx"), ("other", "a folder without config.json")])
def test_a_folder_of_something_else_is_named(tmp_path: Path, file: str, complaint: str) -> None:
    (tmp_path / file).touch()
    with pytest.raises(SpecError, match=complaint):
        Source.parse(str(tmp_path))


@pytest.mark.parametrize("text", ["pkg.mod:build", "examples/digits.py:cnn"])
def test_a_public_reference_keeps_relative_paths(text: str) -> None:
    assert Source(Kind.PYTHON, *text.split(":")).public == text


@pytest.mark.parametrize("place", ["/home/someone/secret/digits.py", "../secret/digits.py"])
def test_a_public_reference_hides_the_folder_of_a_file(place: str) -> None:
    assert Source(Kind.PYTHON, place, "cnn").public == "digits.py:cnn"


def test_a_function_is_named_like_a_source() -> None:
    assert str(Function.parse("pkg.mod:draw", "--samples")) == "pkg.mod:draw"
    with pytest.raises(SpecError, match="--samples 'draw' names no function"):
        Function.parse("draw", "--samples")


@pytest.mark.parametrize(
    ("text", "value"), [("k=2", 2), ("k=[1, 2]", [1, 2]), ("k=tiny", "tiny"), ("k=a=b", "a=b"), ("k='2'", "2"), ("k=", "")]
)
def test_a_kwarg_is_a_literal_or_text(text: str, value: object) -> None:
    assert parse_kwarg(text) == ("k", value)


@pytest.mark.parametrize("text", ["k", "=2", "two words=2"])
def test_a_kwarg_without_a_name_or_a_value_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="write name=value"):
        parse_kwarg(text)
