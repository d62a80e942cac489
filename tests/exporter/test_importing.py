import sys
from pathlib import Path

import pytest
from turnout_exporter.errors import SourceError
from turnout_exporter.importing import load, load_draw, load_function
from turnout_exporter.spec.points import Point
from turnout_exporter.spec.sources import Function, Source


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


def test_a_file_can_import_the_files_beside_it(file: Path) -> None:
    build, origin = load(Source.parse(f"{file}:build"))
    assert (build(), origin) == (["layer"] * 4, file)


def test_a_module_is_found_in_the_current_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load(Source.parse("zoo:build"))[0](2) == ["layer"] * 2


def test_a_missing_attribute_is_reported_with_the_existing_ones(file: Path) -> None:
    with pytest.raises(SourceError, match=r"has no 'biuld'; it has build"):
        load(Source.parse(f"{file}:biuld"))


def test_a_module_that_fails_to_import_is_reported_with_the_reason(file: Path) -> None:
    file.write_text("import nothing_like_this")
    with pytest.raises(SourceError, match=r"zoo.py can't be imported: ModuleNotFoundError: .*nothing_like_this"):
        load(Source.parse(f"{file}:build"))


def test_what_is_no_function_is_refused(file: Path) -> None:
    with pytest.raises(SourceError, match=r"zoo.py:LAYERS is a int, not a function"):
        load_function(Function.parse(f"{file}:LAYERS", "--metric"))


def test_samples_are_drawn_by_the_sizes_and_by_a_seed_if_it_is_taken(file: Path) -> None:
    file.write_text("import numpy as np\ndef one(sizes):\n    return {'x': sizes['batch']}\n"
                    "def two(sizes, seed):\n    return {'x': seed}\n")  # fmt: skip
    one, two = (load_draw(Function.parse(f"{file}:{name}", "--samples")) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    assert one(Point({"batch": 3})) == {"x": 3}
    seeds = [two(Point({"batch": 3}, draw))["x"] for draw in (1, 1, 2)]
    assert seeds[0] == seeds[1] != seeds[2]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("raise KeyError('seq')", r"draw raised KeyError at batch=2: 'seq'"),
        ("return [1]", "returned a list, not a dict of arrays"),
    ],
)
def test_a_function_that_gives_no_samples_is_reported(file: Path, body: str, complaint: str) -> None:
    file.write_text(f"def draw(sizes):\n    {body}\n")
    draw = load_draw(Function.parse(f"{file}:draw", "--samples"))
    assert draw is not None
    with pytest.raises(SourceError, match=complaint):
        draw(Point({"batch": 2}))
