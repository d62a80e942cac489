"""Loads and unloads: one at a time, on their own thread, and only if the mode allows them."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import pytest
from turnout_server.core.errors import InternalError, InvalidRequest, ServingError, Unavailable
from turnout_server.core.listeners import Listeners
from turnout_server.models.control import Control, Mode
from turnout_server.models.loading import Loader
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.repository import Repository

from tests.server.fakes import FakeProfiler

Outcomes = SimpleQueue[ServingError | None]


class Recorder(Repository):
    """Records the changes that it was asked for, and the threads that asked."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, Loader({}, ProfileStore(None)))
        self.asked: list[str] = []
        self.threads: set[str] = set()
        self.polled = threading.Semaphore(0)
        self.trouble: Exception | None = None

    def _note(self, what: str) -> None:
        self.asked.append(what)
        self.threads.add(threading.current_thread().name)
        if self.trouble is not None:
            raise self.trouble

    def start(self, names: set[str] | None = None) -> None:
        self._note("start all" if names is None else f"start {sorted(names)}")

    def load(self, name: str, configuration: str = "", *, evicts: bool = True) -> None:
        self._note(f"load {name} {configuration}".strip())

    def unload(self, name: str) -> None:
        self._note(f"unload {name}")

    def reopen(self) -> None:
        self._note("reopen")

    def poll(self) -> None:
        self.polled.release()
        self._note("poll")


@pytest.fixture
def repository(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def controlled(repository: Repository, mode: Mode, names: list[str] | None = None, poll_s: float = 60) -> Control:
    return Control(repository, FakeProfiler(), Listeners(), mode=mode, load_models=names, poll_s=poll_s)


@pytest.fixture
def control(repository: Recorder) -> Iterator[Control]:
    control = controlled(repository, "explicit")
    yield control
    control.stop()


def test_changes_are_made_in_order_on_one_thread(control: Control, repository: Recorder) -> None:
    outcomes: Outcomes = SimpleQueue()
    control.load("a", "{}", outcomes.put)
    control.unload("a", outcomes.put)
    assert [outcomes.get(timeout=5), outcomes.get(timeout=5)] == [None, None]
    assert repository.asked == ["load a {}", "unload a"]
    assert repository.threads == {"control_0"}


def test_an_expected_error_is_reported_and_an_unexpected_one_is_hidden(control: Control, repository: Recorder) -> None:
    outcomes: Outcomes = SimpleQueue()
    repository.trouble = InvalidRequest("no such model")
    control.load("a", "", outcomes.put)
    assert outcomes.get(timeout=5) is repository.trouble
    repository.trouble = ZeroDivisionError("secret")
    control.load("a", "", outcomes.put)
    hidden = outcomes.get(timeout=5)
    assert isinstance(hidden, InternalError)
    assert "secret" not in str(hidden)


@pytest.mark.parametrize(
    ("mode", "words"), [("none", "without --model-control-mode=explicit"), ("poll", "if polling is enabled")]
)
def test_clients_may_load_and_unload_in_explicit_mode_only(repository: Recorder, mode: Mode, words: str) -> None:
    control = controlled(repository, mode)
    refusal = f"explicit model load / unload is not allowed {words}"
    with pytest.raises(Unavailable, match=refusal):
        control.load("a", "", lambda _: None)
    with pytest.raises(Unavailable, match=refusal):
        control.unload("a", lambda _: None)
    control.stop()


@pytest.mark.parametrize(
    ("mode", "names", "asked"),
    [
        ("none", ["a"], "start all"),
        ("poll", [], "start all"),
        ("explicit", [], "start []"),
        ("explicit", ["a", "b"], "start ['a', 'b']"),
        ("explicit", ["*"], "start all"),
    ],
)
def test_each_mode_loads_its_models_at_the_start(repository: Recorder, mode: Mode, names: list[str], asked: str) -> None:
    control = controlled(repository, mode, names)
    control.start()
    control.stop()
    assert repository.asked == [asked] or asked == "start all"


def test_polling_continues_after_a_failure_and_stops_with_the_server(repository: Recorder) -> None:
    mode: Literal["poll"] = "poll"
    repository.trouble = OSError("the disk is gone")
    control = controlled(repository, mode, poll_s=0.01)
    control.start()
    for _ in range(3):
        assert repository.polled.acquire(timeout=5)
    control.stop()
    polls = repository.asked.count("poll")
    assert polls >= 3
    assert repository.asked.count("poll") == polls


def test_polling_leaves_the_thread_free_for_other_changes(repository: Recorder) -> None:
    control = controlled(repository, "poll", poll_s=0.01)
    control.start()
    assert repository.polled.acquire(timeout=5)
    control.wanted("evicted")
    control.reopen()
    deadline_s = time.monotonic() + 5
    while not {"load evicted", "reopen"} <= set(repository.asked):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert repository.polled.acquire(timeout=5)
    control.stop()


def test_a_load_that_fails_is_in_the_log_too(control: Control, repository: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    outcomes: Outcomes = SimpleQueue()
    repository.trouble = InvalidRequest("no such file")
    control.load("broken", "", outcomes.put)
    assert isinstance(outcomes.get(timeout=10), InvalidRequest)
    assert [record.getMessage() for record in caplog.records] == ["model broken failed to load: no such file"]


def test_a_load_after_the_stop_is_refused(control: Control) -> None:
    control.stop()
    with pytest.raises(Unavailable, match="shutting down"):
        control.load("a", "", lambda _: None)
