from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from turnout_exporter import cli
from turnout_exporter.cli import export_command
from turnout_exporter.compare import Comparison, failed
from turnout_exporter.errors import Refused
from turnout_exporter.pipeline import Progress, Published, Request
from turnout_exporter.spec.signature import Signature, TensorSpec

X = TensorSpec("x", "FP32", ("batch", 4))
GOOD = Comparison("batch=2", "y", 1e-7, 2e-7, 1e-4)


def run(*arguments: str) -> Result:
    base = ["os:getcwd", "--name", "toy", "--repository", "models", "--input", "x=float32[batch,4]"]
    return CliRunner().invoke(export_command, [*base, *arguments])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--input", "y=float32"], "input 'y=float32' can't be read"),
        (["--input", "ids=int64[batch]"], "integers need the range"),
        (["--range", "seq=1..5"], "no input has a dimension 'seq'"),
        (["--kwarg", "layers"], "kwarg 'layers' can't be read"),
        (["--name", "a/b"], "model name 'a/b'"),
        (["--version", "0"], "0 is not in the range"),
        (["--weights", "nowhere.pt"], "'nowhere.pt' does not exist"),
    ],
)
def test_a_wrong_argument_is_one_message_and_status_2(arguments: list[str], complaint: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_an_empty_label_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").touch()
    result = run("--labels", str(tmp_path / "labels.txt"))
    assert (result.exit_code, "labels.txt is empty" in result.stderr) == (2, True)


def test_the_arguments_reach_the_export(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Request] = []

    def fake_export(request: Request, progress: Progress) -> Published:
        seen.append(request)
        progress.step("Building")
        progress.compared([GOOD])
        return Published(tmp_path, Signature([X], [X]), request.max_batch_size)

    monkeypatch.setattr(cli, "export", fake_export)
    result = run("--kwarg", "layers=2", "--range", "batch=1..8", "--output-names", "a,b", "--version", "3", "--force")
    (request,) = seen
    assert (request.kwargs, request.output_names, request.max_batch_size) == ({"layers": 2}, ["a", "b"], 8)
    assert (request.destination.version, request.destination.force) == (3, True)
    assert "✓ Building" in result.stdout
    assert "batch=2   y          1.0e-07    2.0e-07   1.0e-04   ✓" in result.stdout
    assert "up to 8 rows run together" in result.stdout


def test_a_refusal_shows_the_table_and_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Request, progress: Progress) -> Published:
        progress.step("Running ONNX Runtime")
        progress.compared([GOOD, failed("batch=7", "y", "is missing")])
        raise Refused("they differ at [batch=7]", "the child's traceback")

    monkeypatch.setattr(cli, "export", refuse)
    result = run()
    assert result.exit_code == 1
    assert "✗ Running ONNX Runtime" in result.stdout
    assert "✗ differs" in result.stdout
    assert "error: they differ at [batch=7]" in result.stderr
    assert "the child's traceback" not in result.stderr
    assert "the child's traceback" in run("--verbose").stderr


def test_an_unexpected_error_is_a_message_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Published:
        raise OSError("disk on fire")

    monkeypatch.setattr(cli, "export", fail)
    result = run()
    assert result.exit_code == 1
    assert "error: unexpected OSError: disk on fire" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("--verbose").stderr
