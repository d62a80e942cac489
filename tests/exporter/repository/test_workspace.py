import fcntl
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from turnout_exporter.errors import PublishError
from turnout_exporter.repository import workspace as workspace_module
from turnout_exporter.repository.workspace import check_space, workspace


def test_a_workspace_lies_in_the_repository_and_nothing_of_both_remains(tmp_path: Path) -> None:
    repository = tmp_path / "deep" / "models"
    with workspace(repository) as directory:
        (directory / "file").touch()
        assert directory.parent == repository
        assert directory.name.startswith(".")
    assert list(tmp_path.iterdir()) == []


def test_a_repository_with_something_in_it_stays(tmp_path: Path) -> None:
    with workspace(tmp_path / "models") as directory:
        (directory.parent / "toy").mkdir()
    assert [entry.name for entry in (tmp_path / "models").iterdir()] == ["toy"]


def test_the_workspace_of_a_running_export_is_left_alone(tmp_path: Path) -> None:
    with workspace(tmp_path) as running, workspace(tmp_path) as other:
        assert running.is_dir()
        assert running != other


def test_the_workspace_of_a_killed_export_is_removed(tmp_path: Path) -> None:
    abandoned = tmp_path / ".turnout-export-killed"
    abandoned.mkdir()
    (abandoned / "lock").touch()
    (abandoned / "model.onnx").touch()
    with workspace(tmp_path):
        assert not abandoned.exists()


def test_the_workspace_of_an_export_that_was_killed_before_it_had_a_lock_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".turnout-export-killed").mkdir()
    with workspace(tmp_path) as directory:
        assert list(tmp_path.iterdir()) == [directory]


@pytest.mark.parametrize("moment", ["made", "locked"])
def test_a_folder_that_another_export_takes_for_an_abandoned_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The other one looks just after the folder, or its lock, was made, and before the lock is held."""
    removed: list[str] = []

    def then_another_looks(do: Callable[..., Any]) -> Callable[..., Any]:
        def patched(*arguments: Any, **keywords: Any) -> Any:
            if moment == "made":
                result = do(*arguments, **keywords)
            if not removed:
                removed.extend(entry.name for entry in tmp_path.iterdir())
                workspace_module._remove_abandoned(tmp_path)
            return result if moment == "made" else do(*arguments, **keywords)

        return patched

    if moment == "made":
        monkeypatch.setattr(tempfile, "mkdtemp", then_another_looks(tempfile.mkdtemp))
    else:
        flock = fcntl.flock
        monkeypatch.setattr(
            fcntl, "flock", lambda file, how: (then_another_looks(flock) if how == fcntl.LOCK_EX else flock)(file, how)
        )
    with workspace(tmp_path) as directory:
        assert directory.name not in removed
        assert (directory / "lock").exists()
        assert list(tmp_path.iterdir()) == [directory]
    assert len(removed) == 1


def test_exports_at_once_keep_their_workspaces_and_leave_no_repository(tmp_path: Path) -> None:
    def use_often(_: int) -> int:
        lost = 0
        for _ in range(50):
            with workspace(tmp_path / "models") as directory:
                lost += not (directory / "lock").exists()
        return lost

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(use_often, range(4))) == 0
    assert list(tmp_path.glob("models/*")) == []


@pytest.mark.parametrize("blocked", ["models", "models/deep"])
def test_a_repository_that_cannot_be_made_is_named_with_the_reason(tmp_path: Path, blocked: str) -> None:
    (tmp_path / "models").write_text("a file")
    with (
        pytest.raises(PublishError, match=f"can't write to the repository .*{blocked}: (File exists|Not a directory)"),
        workspace(tmp_path / blocked),
    ):
        pass


def test_106_a_full_disk_is_noticed_before_it_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    check_space(tmp_path, 10**9)
    with pytest.raises(PublishError, match=r"needs about 2\.5 GB in the repository, and 1\.0 GB are free"):
        check_space(tmp_path, 5 * 10**8 * 5)
