from pathlib import Path
from textwrap import dedent

import pytest
from turnout_exporter import children
from turnout_exporter.errors import ChildDied, ExportError, SourceError


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Run":
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Run(tmp_path)


class Run:
    """Runs a child whose `work(job, step)` has the given body, and records its steps."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.steps: list[str] = []

    def __call__(self, body: str, job: children.Json | None = None, step: children.Step | None = None) -> children.Json:
        lines = ["import os, signal, sys", "from turnout_exporter import children, errors", "def work(job, step):"]
        lines += [f"    {line}" for line in dedent(body).strip().splitlines()]
        (self.directory / "fake_child.py").write_text("\n".join([*lines, "children.answer(work)"]))
        return children.run("fake_child", "Beginning", job or {}, self.directory, step or self.steps.append)


def test_the_job_goes_in_and_the_result_comes_out(run: Run) -> None:
    assert run("return {'twice': job['number'] * 2}", {"number": 21}) == {"twice": 42}


def test_steps_are_reported_in_order(run: Run) -> None:
    run("step('Exporting'); step('Saving'); return {}")
    assert run.steps == ["Beginning", "Exporting", "Saving"]


def test_output_of_the_users_code_does_not_disturb_the_answer(run: Run) -> None:
    assert run("print('{}'); os.write(1, b'noise'); return {'ok': True}") == {"ok": True}


def test_an_error_keeps_its_class_and_carries_the_traceback(run: Run) -> None:
    with pytest.raises(SourceError, match="no such factory") as caught:
        run("raise errors.SourceError('no such factory')")
    assert "in work" in caught.value.detail


def test_an_unexpected_error_is_reported_with_its_type(run: Run) -> None:
    with pytest.raises(ExportError, match="ZeroDivisionError: division by zero"):
        run("return 1 / 0")


def test_death_by_a_signal_is_reported_with_its_name_and_the_step(run: Run) -> None:
    with pytest.raises(ChildDied, match="killed by SIGSEGV, while: Exporting"):
        run("step('Exporting'); os.kill(os.getpid(), signal.SIGSEGV)")


def test_death_by_sigkill_hints_at_memory(run: Run) -> None:
    with pytest.raises(ChildDied, match="SIGKILL, usually for want of memory"):
        run("os.kill(os.getpid(), signal.SIGKILL)")


def test_an_early_exit_shows_the_last_printed_line(run: Run) -> None:
    with pytest.raises(ChildDied, match=r"status 3 \(out of ideas\)"):
        run("print('out of ideas', flush=True); os._exit(3)")


def test_telemetry_of_onnx_runtime_is_switched_off(run: Run) -> None:
    environment = run("return dict(os.environ)")
    assert (environment["ORT_DISABLE_TELEMETRY"], environment["ORT_TELEMETRY_DISABLED"]) == ("1", "1")


def test_a_file_in_the_current_folder_does_not_replace_a_library(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "numpy.py").write_text("raise SystemExit('wrong numpy')")
    monkeypatch.chdir(elsewhere)
    assert run("import numpy; return {'numpy': numpy.__name__}") == {"numpy": "numpy"}


def test_an_interrupt_kills_a_child_that_would_never_end(run: Run) -> None:
    def interrupt(title: str) -> None:
        if title != "Beginning":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("step('Exporting'); signal.pause()", step=interrupt)
