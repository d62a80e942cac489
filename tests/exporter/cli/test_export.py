from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from turnout_exporter.cli import export as cli
from turnout_exporter.cli.export import export_command
from turnout_exporter.compare import Comparison, failed
from turnout_exporter.errors import Refused
from turnout_exporter.pipeline import Progress, Published, Request
from turnout_exporter.spec.points import Limits
from turnout_exporter.spec.signature import Signature, TensorSpec
from turnout_exporter.variants import Variant

X = TensorSpec("x", "FP32", ("batch", 4))
TEMPERATURE = TensorSpec("temperature", "FP32", ())
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
        (["--task", "chat"], "task 'chat' isn't known"),
        (["--opset", "99"], "opset 99 can't be exported: dynamo writes 18 to 26, torchscript writes 9 to 20"),
        (["--exporter", "dynamo", "--opset", "17"], "opset 17 can't be exported: dynamo writes 18 to 26"),
        (["--variant", "int4"], "'int4' is not one of 'fp16', 'int8'"),
        (["--max-error", "int4=1"], "max-error 'int4=1' can't be read"),
        (["--samples", "draw"], "--samples 'draw' names no function"),
        (["--metric", "judge"], "--metric 'judge' names no function"),
        (["--reference", "m:f"], "--reference does not apply to a model that isn't an ONNX file"),
        (["--max-batch-size", "8", "--range", "batch=2..8"], "a batch of 1 to 8 rows isn't within"),
        (["--name", "m" * 300], "the model name has 300 characters"),
    ],
)
def test_a_wrong_argument_is_one_message_and_status_2(arguments: list[str], complaint: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("option", ["--weights", "--kwarg", "--task", "--outputs", "--output-names", "--opset"])
def test_an_option_that_an_onnx_file_has_no_use_for_is_refused(tmp_path: Path, option: str) -> None:
    (tmp_path / "m.onnx").touch()
    values = {"--weights": str(tmp_path / "m.onnx"), "--kwarg": "a=1", "--task": "ctc", "--opset": "20"}
    command = [str(tmp_path / "m.onnx"), "--name", "toy", "--repository", "models", option, values.get(option, "y")]
    result = CliRunner().invoke(export_command, command)
    assert (result.exit_code, f"{option} does not apply to an ONNX file" in result.stderr) == (2, True)


@pytest.mark.parametrize(("content", "complaint"), [("{", "isn't JSON"), ("[1]", "holds a list, not an object")])
def test_preprocessing_that_is_no_object_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "how.json").write_text(content)
    result = run("--preprocessing", str(tmp_path / "how.json"))
    assert (result.exit_code, complaint in result.stderr) == (2, True)


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
        progress.note("use_cache is off")
        limits = {"batch": Limits(1, 8), "seq": Limits(1, 512)}
        variants = [
            Variant("fp16", tmp_path, reason="it is wrong"),
            Variant("int8", tmp_path, "", "dynamic", [GOOD], 2.5, {"accuracy": 0.9}),
        ]
        return Published(tmp_path / "toy" / "1", Signature([X], [X]), 8, limits, "dynamo", variants, 12.3)

    (tmp_path / "toy" / "1").mkdir(parents=True)
    monkeypatch.setattr(cli, "export", fake_export)
    result = run("--kwarg", "layers=2", "--range", "batch=1..8", "--output-names", "a,b", "--version", "3", "--force")
    (request,) = seen
    assert (request.kwargs, request.output_names, request.ranges) == ({"layers": 2}, ["a", "b"], {"batch": Limits(1, 8)})
    assert (request.destination.version, request.destination.force) == (3, True)
    assert "✓ Building" in result.stdout
    assert "batch=2   y          1.0e-07    2.0e-07   1.0e-04   ✓" in result.stdout
    assert "! use_cache is off" in result.stdout
    assert "batch    up to 8 rows run together" in result.stdout
    assert "sizes    proven for batch 1..8, seq 1..512" in result.stdout
    assert "fp16     left out: it is wrong" in result.stdout
    assert "int8     2.50 times as fast on this CPU, largest error 2.0e-07, accuracy 0.9 (dynamic)" in result.stdout
    assert f"Published {tmp_path}/toy/1 in 12 s" in result.stdout
    assert f"turnout-server --model-repository {tmp_path}" in result.stdout


@pytest.mark.parametrize(
    ("inputs", "max_batch_size", "reason"),
    [
        ([X, TEMPERATURE], 0, "none: axis 0 of input 'temperature' is not the batch, as it has to be everywhere"),
        ([X], 0, "off, by max_batch_size 0 in config.pbtxt"),
    ],
)
def test_the_input_that_turns_batching_off_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inputs: list[TensorSpec], max_batch_size: int, reason: str
) -> None:
    (tmp_path / "toy" / "1").mkdir(parents=True)
    published = Published(tmp_path / "toy" / "1", Signature(inputs, [X]), max_batch_size, {}, "dynamo", [], 1.0)
    monkeypatch.setattr(cli, "export", lambda *_: published)
    assert f"batch    {reason}" in run().stdout


def test_rows_that_depend_on_each_other_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "toy" / "1").mkdir(parents=True)
    published = Published(tmp_path / "toy" / "1", Signature([X], [X], ("x",)), 0, {}, "dynamo", [], 1.0)
    monkeypatch.setattr(cli, "export", lambda *_: published)
    assert "batch    none: rows of output 'x' depend on each other" in run().stdout


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
