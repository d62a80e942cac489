"""The command as users run it, on this machine and on fake ones."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from turnout_server.cli.doctor import command
from turnout_server.cli.doctor.facts import Machine
from turnout_server.cli.doctor.findings import exit_code, judge
from turnout_server.settings_sources import UsageError

from tests.models import add_sub, save
from tests.server.commandline import read_for_doctor

HAS_GPU = Path("/proc/driver/nvidia/version").exists()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("TURNOUT_"):
            monkeypatch.delenv(name)


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "turnout_server", "doctor", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def main(arguments: list[str]) -> int:
    status: int = command.doctor.main(arguments, standalone_mode=False)
    return status


@pytest.mark.skipif(HAS_GPU, reason="this machine has an NVIDIA driver")
def test_a_machine_without_gpu_is_healthy_and_says_why_there_is_no_cuda() -> None:
    done = doctor()
    assert (done.returncode, done.stderr) == (0, "")
    assert "every device that this machine should have works" in done.stdout
    assert "cuda is missing because no NVIDIA driver is loaded" in done.stdout


def test_stdout_has_only_the_json() -> None:
    content = json.loads(doctor("--json").stdout)
    assert content["runtime"]["wheels"]
    (cpu, *_) = content["devices"]
    assert (cpu["device"]["name"], cpu["problem"]) == ("cpu", "")
    assert cpu["device"]["threads"] == len(content["host"]["affinity"]) or content["host"]["quota_cores"] is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--jsn"], "no such option '--jsn'; did you mean '--json'? see turnout-server doctor --help"),
        (["--config"], "option '--config' requires an argument"),
        (["--config=/nowhere.toml"], "there is no file '/nowhere.toml'"),
        (["--model-repository=/nowhere"], "there is no such directory"),
    ],
)
def test_a_usage_error_gives_one_line_and_status_2(arguments: list[str], words: str) -> None:
    done = doctor(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_declared_device_is_tried_as_it_is_declared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "turnout.toml"
    file.write_text('[devices."cpu:own"]\nthreads = 1\nisolation = "process"\n[devices."cuda:7"]\n')
    assert main([f"--config={file}", "--device=cpu:flag={threads = 1, instances = 2}", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    works = {tried["device"]["name"]: not tried["problem"] for tried in content["devices"]}
    assert {"cpu:own": True, "cpu:flag": True, "cuda:7": False, "cpu": True}.items() <= works.items()
    assert "device 'cuda:7' does not work" in [finding["what"] for finding in content["findings"]]


def test_models_are_loaded_on_every_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, "sum", add_sub())
    (tmp_path / "broken" / "1").mkdir(parents=True)
    assert main([f"--model-repository={tmp_path}"]) == 1
    text = capsys.readouterr().out
    assert "CPU 100%" in text
    assert "model 'broken' version 1 does not load" in text


def test_a_bare_model_without_a_name_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="--model-name"):
        main([f"--model-repository={tmp_path}"])


def failing(error: Exception) -> Callable[[], tuple[str, ...]]:
    def providers() -> tuple[str, ...]:
        raise error

    return providers


@pytest.mark.parametrize("error", [ImportError("No module named 'onnxruntime'"), AttributeError("no attribute 'capi'")])
def test_a_broken_runtime_is_reported_and_no_device_is_tried(error: Exception) -> None:
    checkup = command.examine(read_for_doctor([]), Machine(failing(error)))
    findings = judge(checkup)
    assert (findings[0].code, exit_code(findings)) == ("broken-runtime", 1)
    assert str(error) in findings[0].what
    assert checkup.devices == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--model-repository=."], "onnxruntime is not installed; run: pip install"), (["doctor"], "cannot be imported")],
)
def test_without_a_runtime_the_server_says_what_to_install_and_the_doctor_what_is_wrong(
    arguments: list[str], words: str
) -> None:
    code = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime': raise ModuleNotFoundError('No module named onnxruntime')\n"
        "sys.meta_path.insert(0, Hide())\n"
        "from turnout_server.__main__ import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_the_settings_that_matter_here_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    assert all(flag in text for flag in ("--json", "--config", "--model-repository", "--model-name", "--device"))
    assert "--grpc-port" not in text
