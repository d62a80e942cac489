"""The demo resumes: a step that an earlier run did is done again only if what it depends on has changed."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "examples"))  # scripts, not a package

from resume import Step


@pytest.fixture
def step(tmp_path: Path) -> Step:
    source, output = tmp_path / "source.py", tmp_path / "model.onnx"
    source.write_text("epochs = 20")
    output.write_text("weights")
    return Step(tmp_path / "notes" / "model", [source, "torch==2.13.0"], [output])


def test_a_step_is_done_once_that_is_noted(step: Step) -> None:
    assert not step.is_done()
    step.done()
    assert step.is_done()


@pytest.mark.parametrize("name", ["source.py", "model.onnx"])
def test_a_changed_file_means_doing_it_again(step: Step, name: str, tmp_path: Path) -> None:
    step.done()
    (tmp_path / name).write_text("other")
    assert not step.is_done()


@pytest.mark.parametrize("name", ["notes/model", "model.onnx"])
def test_so_does_a_file_that_is_gone(step: Step, name: str, tmp_path: Path) -> None:
    step.done()
    (tmp_path / name).unlink()
    assert not step.is_done()


def test_so_does_another_version(step: Step) -> None:
    step.done()
    assert not Step(step.note, [step.inputs[0], "torch==2.14.0"], step.outputs).is_done()
