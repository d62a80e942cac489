import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import psutil
import pytest
from turnout_exporter import children
from turnout_exporter.errors import ChildDied, ChildTimedOut, ExportError, SourceError

from tests.exporter.progress import Recorded


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Run":
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return Run(tmp_path)


class Run:
    """Runs a child whose `work(job, channel)` has the given body, and records its progress."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.progress = Recorded()

    def __call__(
        self,
        body: str,
        job: children.Json | None = None,
        progress: children.Progress | None = None,
        timeout_s: float | None = None,
    ) -> children.Json:
        lines = ["import os, signal, sys", "from turnout_exporter import children, errors", "def work(job, channel):"]
        lines += [f"    {line}" for line in dedent(body).strip().splitlines()]
        (self.directory / "fake_child.py").write_text("\n".join([*lines, "children.answer(work)"]))
        return children.run("fake_child", "Beginning", job or {}, self.directory, progress or self.progress, timeout_s)


def test_the_job_goes_in_and_the_result_comes_out(run: Run) -> None:
    assert run("return {'twice': job['number'] * 2}", {"number": 21}) == {"twice": 42}


def test_steps_are_reported_in_order(run: Run) -> None:
    run("channel.step('Exporting'); channel.detail('1 of 2'); channel.note('slow'); channel.step('Saving'); return {}")
    assert run.progress.steps == ["Beginning", "Exporting", "Saving"]
    assert (run.progress.details, run.progress.notes, run.progress.failures) == (["1 of 2"], ["slow"], 0)


def test_output_of_the_users_code_does_not_disturb_the_answer(run: Run) -> None:
    assert run("print('{}'); os.write(1, b'noise'); return {'ok': True}") == {"ok": True}


def test_an_error_keeps_its_class_and_carries_the_traceback(run: Run) -> None:
    with pytest.raises(SourceError, match="no such factory") as caught:
        run("raise errors.SourceError('no such factory')")
    assert run.progress.failures == 1
    assert "in work" in caught.value.detail


def test_an_unexpected_error_is_reported_with_its_type(run: Run) -> None:
    with pytest.raises(ExportError, match="ZeroDivisionError: division by zero"):
        run("return 1 / 0")


def test_death_by_a_signal_is_reported_with_its_name_and_the_step(run: Run) -> None:
    with pytest.raises(ChildDied, match="killed by SIGSEGV, while: Exporting"):
        run("channel.step('Exporting'); os.kill(os.getpid(), signal.SIGSEGV)")


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


class Interrupting(Recorded):
    def step(self, title: str) -> None:
        super().step(title)
        if title != "Beginning":
            raise KeyboardInterrupt


GRANDCHILD = """
    import subprocess
    sleeper = subprocess.Popen(["sleep", "1000"])
    channel.note(str(sleeper.pid))
    channel.step('Exporting')
    signal.pause()
"""


def test_an_interrupt_kills_a_child_that_would_never_end_and_its_children(run: Run) -> None:
    progress = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        run(GRANDCHILD, progress=progress)
    (sleeper,) = progress.notes
    wait_until_dead(int(sleeper))


def test_a_child_that_takes_too_long_is_killed_and_named(run: Run) -> None:
    with pytest.raises(ChildTimedOut, match="it took longer than 1 s: Exporting"):
        run("channel.step('Exporting'); signal.pause()", timeout_s=1.0)


def test_a_child_ends_with_its_parent(run: Run, tmp_path: Path) -> None:
    """The parent is killed by SIGKILL, so it can't end its child."""
    (tmp_path / "fake_child.py").write_text(
        "import os, signal\nfrom turnout_exporter import children\n"
        "children.answer(lambda job, channel: (channel.step(str(os.getpid())), signal.pause()))"
    )
    parent = f"""
        import os, pathlib, signal, sys
        from turnout_exporter import children
        from tests.exporter.progress import Recorded

        class Killing(Recorded):
            def step(self, title):
                if title != "Beginning":
                    print(title, flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)

        children.run("fake_child", "Beginning", {{}}, pathlib.Path({str(tmp_path)!r}), Killing())
    """
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2]), *filter(None, sys.path)])
    ended = subprocess.run(
        [sys.executable, "-c", dedent(parent)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    wait_until_dead(int(ended.stdout))


def wait_until_dead(pid: int) -> None:
    for process in psutil.process_iter(["pid"]):
        if process.pid == pid and process.status() != psutil.STATUS_ZOMBIE:
            process.wait(10)
