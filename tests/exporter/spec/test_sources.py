import sys
from pathlib import Path

import pytest
from turnout_exporter.errors import SourceError, SpecError
from turnout_exporter.spec.sources import Source, parse_kwarg


@pytest.fixture(autouse=True)
def restored_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("LAYERS = 4")
    file = tmp_path / "zoo.py"
    file.write_text("from beside import LAYERS\ndef build(layers=LAYERS):\n    return ['layer'] * layers\n")
    return file


@pytest.mark.parametrize("text", ["model", "model:", ":build", "model:two words", "model.py"])
def test_a_source_without_a_factory_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="names no factory"):
        Source.parse(text)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SpecError, match=r"there is no file nowhere.py"):
        Source.parse("nowhere.py:build")


def test_a_file_can_import_the_files_beside_it(file: Path) -> None:
    built, origin = Source.parse(f"{file}:build").call({})
    assert (built, origin) == (["layer"] * 4, file)


def test_a_module_is_found_in_the_current_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert Source.parse("zoo:build").call({"layers": 2})[0] == ["layer"] * 2


def test_a_missing_attribute_is_reported_with_the_existing_ones(file: Path) -> None:
    with pytest.raises(SourceError, match=r"no function or class 'biuld'; it has build"):
        Source.parse(f"{file}:biuld").call({})


def test_a_module_that_fails_to_import_is_reported_with_the_reason(file: Path) -> None:
    file.write_text("import nothing_like_this")
    with pytest.raises(SourceError, match=r"zoo.py can't be imported: ModuleNotFoundError: .*nothing_like_this"):
        Source.parse(f"{file}:build").call({})


def test_a_factory_that_raises_is_reported_with_its_arguments(file: Path) -> None:
    with pytest.raises(SourceError, match=r"zoo.py:build\(depth=3\) raised TypeError"):
        Source.parse(f"{file}:build").call({"depth": 3})


@pytest.mark.parametrize(
    ("text", "public"),
    [("pkg.mod:build", "pkg.mod:build"), ("examples/digits.py:cnn", "examples/digits.py:cnn")],
)
def test_a_public_reference_keeps_relative_paths(text: str, public: str) -> None:
    assert Source(*text.split(":")).public == public


@pytest.mark.parametrize("module", ["/home/someone/secret/digits.py", "../secret/digits.py"])
def test_a_public_reference_hides_the_folder_of_a_file(module: str) -> None:
    assert Source(module, "cnn").public == "digits.py:cnn"


@pytest.mark.parametrize(
    ("text", "value"), [("k=2", 2), ("k=[1, 2]", [1, 2]), ("k=tiny", "tiny"), ("k=a=b", "a=b"), ("k='2'", "2"), ("k=", "")]
)
def test_a_kwarg_is_a_literal_or_text(text: str, value: object) -> None:
    assert parse_kwarg(text) == ("k", value)


@pytest.mark.parametrize("text", ["layers", "=2", "two words=2"])
def test_a_kwarg_without_a_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="write name=value"):
        parse_kwarg(text)
