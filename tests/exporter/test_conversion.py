"""The order in which exporters are tried, with children that only pretend."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turnout_exporter import children, conversion
from turnout_exporter.compare import Comparison, compare, failed
from turnout_exporter.conversion import convert, exporters
from turnout_exporter.errors import ChildDied, ConversionError, ExportError, Refused, SourceError, SpecError, ValueBranch
from turnout_exporter.jobs import ExportJob

from tests.exporter.progress import Recorded

GOOD = Comparison("batch=2", "y", 1e-7, 2e-7, 1e-4)
ELSEWHERE = [GOOD, failed("batch=7", "y", "differs by 1 at [6, 0]: 2 became 1 (allowed 0.0001)")]
HERE = [failed("batch=2", "y", "differs by 1 at [0]"), failed("batch=7", "y", "differs by 1 at [0]")]
PIXEL = compare("batch=7", "y", np.full(5000, 124, np.uint8), np.array([123] + [124] * 4999, np.uint8))
ROW = compare("batch=32", "y", np.arange(32), np.array([7, *range(1, 32)]))
ROWS = compare("batch=7", "y", np.zeros(7, np.int64), np.arange(7))
SMALL, LARGE = (compare("batch=7", "y", np.ones(2, np.float32), np.full(2, value, np.float32)) for value in (0.999, 0.8))
SHAPES = [GOOD, failed("batch=7", "y", "is float32[3] instead of float32[2]")]


class Children:
    """Each exporter raises its error or writes a file whose comparisons are these."""

    def __init__(self, **outcomes: ExportError | list[Comparison]) -> None:
        self.outcomes = outcomes
        self.asked: list[str] = []

    def run(self, module: str, title: str, job: Any, directory: Path, progress: children.Progress) -> children.Json:
        progress.step(title)
        exporter = Path(job["path"]).read_text() if "exporter" not in job else job["exporter"]
        outcome = self.outcomes[exporter]
        if module.endswith("verify"):
            assert isinstance(outcome, list)
            return {"comparisons": [vars(comparison) for comparison in outcome], "onnxruntime": "1.32"}
        self.asked.append(exporter)
        if isinstance(outcome, ExportError):
            raise outcome
        Path(job["path"]).write_text(exporter)
        return {"versions": {"onnx": "1.23"}}


def converted(monkeypatch: pytest.MonkeyPatch, directory: Path, fakes: Children) -> tuple[conversion.Converted, Recorded]:
    monkeypatch.setattr(children, "run", fakes.run)
    progress = Recorded()

    def job_for(exporter: str) -> ExportJob:
        return ExportJob({}, ["x=float32[batch,4]"], ["y"], exporter, 20, 0, "reference", str(directory / "model.onnx"), {})

    return convert(["dynamo", "torchscript"], job_for, directory, progress), progress


def test_the_first_exporter_that_is_right_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fakes = Children(dynamo=[GOOD])
    result, progress = converted(monkeypatch, tmp_path, fakes)
    assert (result.exporter, result.failures, fakes.asked, progress.notes) == ("dynamo", {}, ["dynamo"], [])
    assert result.versions == {"onnx": "1.23", "onnxruntime": "1.32"}


@pytest.mark.parametrize("outcome", [ConversionError("no operator"), ChildDied("killed by SIGSEGV"), ELSEWHERE])
def test_the_second_exporter_is_tried_and_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: ExportError | list[Comparison]
) -> None:
    result, progress = converted(monkeypatch, tmp_path, Children(dynamo=outcome, torchscript=[GOOD]))
    assert result.exporter == "torchscript"
    assert list(result.failures) == ["dynamo"]
    (note,) = progress.notes
    assert note.startswith("torch.onnx failed, so torch's TorchScript exporter is tried: ")


def test_an_error_that_the_other_exporter_would_meet_too_ends_the_export(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fakes = Children(dynamo=SourceError("other weights each time"), torchscript=[GOOD])
    with pytest.raises(SourceError, match="other weights"):
        converted(monkeypatch, tmp_path, fakes)
    assert fakes.asked == ["dynamo"]


def test_if_both_fail_each_reason_is_in_the_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fakes = Children(dynamo=ConversionError("no operator"), torchscript=ELSEWHERE)
    with pytest.raises(ConversionError) as caught:
        converted(monkeypatch, tmp_path, fakes)
    first, *reasons = str(caught.value).splitlines()
    assert "nothing was published" in first
    assert reasons[0] == "torch.onnx: no operator"
    assert reasons[1] == "torch's TorchScript exporter: ONNX Runtime and PyTorch differ at 1 of 2 points:"
    assert not (tmp_path / "model.onnx").exists()


def test_a_reason_that_both_share_is_said_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        converted(monkeypatch, tmp_path, Children(dynamo=ELSEWHERE, torchscript=ELSEWHERE))
    assert str(caught.value).count("at batch=7, output 'y' differs by 1 at [6, 0]") == 1
    assert "torch.onnx and torch's TorchScript exporter: " in str(caught.value)


def test_a_decision_by_a_value_is_not_given_to_the_exporter_that_would_keep_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fakes = Children(dynamo=ValueBranch("forward decides by a value"), torchscript=[GOOD])
    with pytest.raises(ValueBranch, match=r"by a value\. If it is always decided .* --exporter torchscript"):
        converted(monkeypatch, tmp_path, fakes)
    assert fakes.asked == ["dynamo"]


def test_a_decision_that_only_the_second_exporter_meets_ends_the_export_with_the_way_to_keep_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fakes = Children(dynamo=ConversionError("no operator"), torchscript=ValueBranch("forward decides by a value"))
    with pytest.raises(ValueBranch, match=r"by a value\. If it is always decided .* --exporter torchscript"):
        converted(monkeypatch, tmp_path, fakes)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("outcome", "diagnosis"),
    [(ELSEWHERE, "The model was exported at batch=2; a Python `if`"), (HERE, "at the sizes of the export as well"),
     (SHAPES, "A shape that depends on values"), ([GOOD, PIXEL], "the cause is probably rounding"),
     ([SMALL, PIXEL], "the cause is probably rounding.*Return the value before a round, an argmax"),
     ([GOOD, SMALL, LARGE], "The model was exported at batch=2; a Python `if`"),
     ([GOOD, ROW], "the cause is probably rounding"), ([GOOD, ROWS], "The model was exported at batch=2; a Python `if`"),
     ([SMALL, *HERE], "at the sizes of the export as well")],
)  # fmt: skip
def test_the_points_of_the_differences_say_the_likely_cause(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: list[Comparison], diagnosis: str
) -> None:
    with pytest.raises(Refused, match=diagnosis):
        converted(monkeypatch, tmp_path, Children(dynamo=outcome, torchscript=outcome))


@pytest.mark.parametrize(
    ("name", "opset", "names"),
    [
        ("auto", None, ["dynamo", "torchscript"]),
        ("auto", 17, ["torchscript"]),
        ("auto", 23, ["dynamo"]),
        ("torchscript", None, ["torchscript"]),
    ],
)
def test_exporters_are_those_that_write_the_opset(name: str, opset: int | None, names: list[str]) -> None:
    assert exporters(name, opset) == names


@pytest.mark.parametrize(("name", "opset"), [("dynamo", 17), ("torchscript", 21), ("auto", 8), ("auto", 99)])
def test_an_opset_that_no_exporter_writes_is_refused_with_those_they_write(name: str, opset: int) -> None:
    with pytest.raises(SpecError, match=f"opset {opset} can't be exported: .*writes"):
        exporters(name, opset)
