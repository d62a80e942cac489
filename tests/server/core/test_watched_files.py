"""Values that follow their files."""

import os
import threading
from pathlib import Path

import pytest
from turnout_server.core.watched_files import WatchedFiles, Watcher


def numbers(path: Path) -> WatchedFiles[int]:
    return WatchedFiles([path], lambda: int(path.read_text()), "numbers")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "number"
    path.write_text("1")
    return path


def test_the_value_follows_the_file(path: Path) -> None:
    watched = numbers(path)
    path.write_text("22")
    assert watched.value == 1
    watched.look()
    assert watched.value == 22


def test_a_file_replaced_by_one_of_equal_size_and_time_is_noticed(path: Path) -> None:
    watched = numbers(path)
    other = path.with_name("other")
    other.write_text("2")
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.rename(path)
    watched.look()
    assert watched.value == 2


def test_a_link_that_is_turned_to_another_file_is_noticed(path: Path, tmp_path: Path) -> None:
    """Kubernetes replaces the files of a mounted secret in this way."""
    link = tmp_path / "link"
    link.symlink_to(path)
    watched = numbers(link)
    (tmp_path / "next").write_text("22")
    (tmp_path / "new").symlink_to(tmp_path / "next")
    (tmp_path / "new").rename(link)
    watched.look()
    assert watched.value == 22


@pytest.mark.parametrize("broken", ["x", None], ids=["wrong", "gone"])
def test_what_cannot_be_read_leaves_the_earlier_value_and_is_logged_once(
    path: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    watched = numbers(path)
    path.unlink() if broken is None else path.write_text(broken)
    watched.look()
    watched.look()
    assert watched.value == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    path.write_text("333")
    watched.look()
    assert watched.value == 333


def test_the_watcher_looks_until_it_is_stopped() -> None:
    looked = threading.Event()

    class Followed:
        def look(self) -> None:
            looked.set()

    watcher = Watcher([Followed()], poll_s=0.001)
    watcher.start()
    assert looked.wait(5)
    watcher.stop()


def test_a_watcher_of_nothing_has_no_thread() -> None:
    before = threading.active_count()
    watcher = Watcher([])
    watcher.start()
    assert threading.active_count() == before
    watcher.stop()
