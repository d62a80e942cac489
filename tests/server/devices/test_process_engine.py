import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from turnout_server.core.errors import DeviceLost, FailedPrecondition, InternalError, InvalidRequest, Overloaded, ServingError
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices import device as devices
from turnout_server.devices import process_engine
from turnout_server.devices.device import Device
from turnout_server.devices.process import Channel, DeviceProcess
from turnout_server.devices.process_engine import ProcessEngine
from turnout_server.devices.remote_session import RemoteSession
from turnout_server.devices.sessions import OnnxSession

from tests import models
from tests.faulty import Faults, freeze, until

CHILD = replace(devices.cpu(), name="cpu:child", threads=1, isolated=True, watchdog_s=0.5)
ROW = np.ones((1, 2), np.float32)
#: Far more rounds of `countdown` than anybody waits for.
FOR_EVER = np.array(10**12)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    models.save(root, "add_sub", models.add_sub(2))
    models.save(root, "add_one", models.add_constant(1))
    models.save(root, "text", models.identity("BYTES", ("n",)))
    models.save(root, "gather", models.gather())
    models.save(root, "slow", models.countdown())
    models.save(root, "broken", b"this is no model")
    return root


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Children that are started from now on do wrong what this says."""
    directory = tmp_path / "faults"
    directory.mkdir()
    faults = Faults(directory)
    for name, value in faults.environment.items():
        monkeypatch.setenv(name, value)
    return faults


class Watched:
    """An engine, the models it opens, and what it says of its state."""

    def __init__(self, device: Device, repository: Path) -> None:
        self._repository = repository
        self._changed = threading.Condition()
        self.states: list[bool] = []
        self.engine = ProcessEngine(device, self._note)

    def open(self, name: str) -> RemoteSession:
        return self.engine.open(self._repository / name / "1" / "model.onnx", RuntimeOptions())

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.engine.process().pid)

    def wait_until_restarted(self, times: int = 1) -> None:
        """Returns once it has been ready again this often."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.states.count(True) >= times, timeout=30)

    def _note(self) -> None:
        with self._changed:
            self.states.append(self.engine.unavailable_reason() is None)
            self._changed.notify_all()


@contextmanager
def watched(device: Device, repository: Path) -> Iterator[Watched]:
    before = psutil.Process().children()
    made = Watched(device, repository)
    try:
        yield made
    finally:
        made.engine.stop()
        assert psutil.Process().children() == before


@pytest.fixture
def child(repository: Path) -> Iterator[Watched]:
    with watched(CHILD, repository) as made:
        yield made


def add_one(session: RemoteSession, row: np.ndarray = ROW) -> list[list[float]]:
    (result,) = session.run({"x": row}, ["y"])
    answer: list[list[float]] = result.tolist()
    return answer


@contextmanager
def in_background(call: Callable[[], object]) -> Iterator[Future[object]]:
    with ThreadPoolExecutor() as pool:
        yield pool.submit(call)


def run_for_ever(child: Watched, session: RemoteSession) -> object:
    return session.run({"n": FOR_EVER}, ["y"])


def wait_until_busy(process: psutil.Process) -> None:
    """Returns once the process has worked for a while."""
    before_s = process.cpu_times().user
    until(lambda: process.cpu_times().user > before_s + 0.05)


def test_its_answers_are_those_of_a_session_in_this_process(child: Watched, repository: Path) -> None:
    here = OnnxSession(repository / "add_sub/1/model.onnx", CHILD)
    there = child.open("add_sub")
    assert (there.inputs, there.outputs, dict(there.placement)) == (here.inputs, here.outputs, dict(here.placement))
    inputs = {"INPUT0": np.arange(6, dtype=np.float32).reshape(3, 2), "INPUT1": np.ones((3, 2), np.float32)}
    for wanted in (["OUTPUT0", "OUTPUT1"], ["OUTPUT1"], ["OUTPUT1", "OUTPUT0"]):
        for mine, other in zip(here.run(inputs, wanted), there.run(inputs, wanted), strict=True):
            np.testing.assert_array_equal(mine, other)


def test_results_outlive_the_next_run(child: Watched) -> None:
    session = child.open("add_one")
    (first,) = session.run({"x": ROW}, ["y"])
    add_one(session, ROW * 50)
    assert first.tolist() == [[2, 2]]
    first[:] = 0  # the caller's own


def test_text_travels_both_ways(child: Watched) -> None:
    text = np.array(["", "ü", "x" * 3_000_000], np.object_)
    (result,) = child.open("text").run({"INPUT": text}, ["OUTPUT"])
    assert result.tolist() == text.tolist()


def test_an_error_of_a_run_arrives_as_what_it_is_and_harms_nobody(child: Watched) -> None:
    session = child.open("gather")
    with pytest.raises(InvalidRequest, match="refused these inputs"):
        session.run({"x": np.array([99])}, ["y"])
    assert session.run({"x": np.array([1])}, ["y"])[0].tolist() == [20]
    assert child.engine.restarts == 0


def test_a_model_that_cannot_be_opened_says_why_and_harms_nobody(child: Watched) -> None:
    with pytest.raises(FailedPrecondition, match=r"model\.onnx"):
        child.open("broken")
    assert add_one(child.open("add_one")) == [[2, 2]]


def test_a_process_that_is_killed_while_idle_is_replaced_and_has_its_models_again(child: Watched) -> None:
    sessions = [child.open("add_one"), child.open("add_one")]
    killed = child.process
    killed.kill()
    child.wait_until_restarted()
    assert (child.states, child.engine.restarts) == ([False, True], 1)
    assert child.process.pid != killed.pid
    assert [add_one(session) for session in sessions] == [[[2, 2]]] * 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_process_that_is_killed_in_a_run_fails_it_at_once(child: Watched, number: signal.Signals) -> None:
    session, other = child.open("slow"), child.open("add_one")
    with in_background(lambda: run_for_ever(child, session)) as running:
        wait_until_busy(child.process)
        child.process.send_signal(number)
        error = running.exception(timeout=10)
    assert isinstance(error, DeviceLost)
    assert str(error) == f"device 'cpu:child' was lost: its process was killed by {number.name}"
    child.wait_until_restarted()
    assert add_one(other) == [[2, 2]]


def test_a_stopped_process_counts_as_hung_and_is_replaced(child: Watched) -> None:
    session = child.open("add_one")
    add_one(session)
    freeze(child.process)
    with pytest.raises(DeviceLost, match="did not answer within"):
        add_one(session)
    child.wait_until_restarted()
    assert add_one(session) == [[2, 2]]


def test_even_a_message_too_large_for_a_stopped_process_waits_no_longer_than_that(child: Watched) -> None:
    session = child.open("text")
    session.run({"INPUT": np.array(["warm"], np.object_)}, ["OUTPUT"])
    freeze(child.process)
    with pytest.raises(DeviceLost, match="did not answer within"):
        session.run({"INPUT": np.array(["x" * 20_000_000], np.object_)}, ["OUTPUT"])


def test_nothing_waits_for_the_other_end_of_a_line_longer_than_it_was_told_to() -> None:
    line = Channel()
    with pytest.raises(TimeoutError):
        line.exchange(bytes(10_000_000), 0.05)  # nobody reads
    line.close()
    line = Channel()
    line.theirs.send(b"\x05\x00\x00\x00\x01")  # the beginning of an answer
    with pytest.raises(TimeoutError):
        line.exchange(b"question", 0.05)
    line.close()


def test_while_it_restarts_everything_fails_at_once_and_says_why(child: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_engine, "BACK_OFF_S", (60.0,))
    session = child.open("add_one")
    child.process.kill()
    until(lambda: child.states == [False])
    with pytest.raises(DeviceLost, match=r"'cpu:child' is restarting: its process was killed by SIGKILL") as caught:
        add_one(session)
    assert caught.value.pushback_ms == 1000
    with pytest.raises(DeviceLost, match="is restarting"):
        child.open("add_one")


def test_a_context_that_cuda_says_is_lost_is_not_used_again(repository: Path, faults: Faults) -> None:
    with watched(CHILD, repository) as child:
        session = child.open("add_one")
        faults.at("run", "sticky")
        with pytest.raises(DeviceLost, match="it cannot recover: CUDA failure 700: an illegal memory access"):
            add_one(session)
        child.wait_until_restarted()
        assert add_one(session) == [[2, 2]]


def test_an_unexpected_error_of_a_run_is_an_internal_one_and_no_reason_to_restart(repository: Path, faults: Faults) -> None:
    with watched(CHILD, repository) as child:
        session = child.open("add_one")
        faults.at("run", "raise")
        with pytest.raises(InternalError):
            add_one(session)
        assert add_one(session) == [[2, 2]]
        assert child.engine.restarts == 0


def test_a_process_that_exits_while_it_loads_a_model_fails_that_load_and_is_replaced(repository: Path, faults: Faults) -> None:
    with watched(CHILD, repository) as child:
        session = child.open("add_one")
        faults.at("load", "exit")
        with pytest.raises(DeviceLost, match="its process ended with status 3"):
            child.open("add_sub")
        child.wait_until_restarted()
        assert add_one(session) == [[2, 2]]


def test_it_tries_again_until_the_process_starts_and_its_models_load(
    repository: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_engine, "BACK_OFF_S", (0.0, 0.01))
    with watched(CHILD, repository) as child:
        session = child.open("add_one")
        faults.at("start", "exit", "raise", "abort")
        faults.at("load", "exit")
        child.process.kill()
        child.wait_until_restarted()
        assert child.engine.restarts == 5
        assert child.states == [False, True]
        assert add_one(session) == [[2, 2]]


def test_a_model_that_cannot_be_opened_again_keeps_no_other_from_coming_back(tmp_path: Path, repository: Path) -> None:
    models.save(tmp_path, "gone", models.add_constant(5))
    with watched(CHILD, repository) as child:
        stays = child.open("add_one")
        gone = child.engine.open(tmp_path / "gone/1/model.onnx", RuntimeOptions())
        (tmp_path / "gone/1/model.onnx").rename(tmp_path / "elsewhere")
        child.process.kill()
        child.wait_until_restarted()
        assert add_one(stays) == [[2, 2]]
        with pytest.raises(DeviceLost, match=r"could not be opened again when the device restarted: .*model\.onnx"):
            add_one(gone)
        (tmp_path / "elsewhere").rename(tmp_path / "gone/1/model.onnx")
        child.process.kill()
        child.wait_until_restarted(times=2)
        assert add_one(gone) == [[6, 6]]


def test_a_file_that_was_replaced_is_not_served_as_the_version_that_was_loaded(tmp_path: Path, repository: Path) -> None:
    models.save(tmp_path, "adds", models.add_constant(5))
    models.save(tmp_path / "new", "adds", models.add_constant(50))
    with watched(CHILD, repository) as child:
        session = child.engine.open(tmp_path / "adds/1/model.onnx", RuntimeOptions())
        assert add_one(session) == [[6, 6]]
        (tmp_path / "new/adds/1/model.onnx").rename(tmp_path / "adds/1/model.onnx")
        child.process.kill()
        child.wait_until_restarted()
        with pytest.raises(DeviceLost, match=r"restarted: model\.onnx has changed since the model began to load: load it"):
            add_one(session)
        assert add_one(child.engine.open(tmp_path / "adds/1/model.onnx", RuntimeOptions())) == [[51, 51]]


@pytest.mark.parametrize(
    ("device", "why"),
    [
        (replace(CHILD, provider="NoSuchProvider"), "no NoSuchProvider"),
        (replace(CHILD, cpus=(4000,)), "its process ended with status 1"),
    ],
    ids=["provider", "exit"],
)
def test_a_device_that_does_not_work_is_refused_with_the_reason_and_leaves_nothing_behind(device: Device, why: str) -> None:
    before = _resources()
    with pytest.raises(FailedPrecondition, match=why):
        ProcessEngine(device)
    assert _resources() == before


def test_a_process_that_cannot_even_be_started_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _resources()
    monkeypatch.setattr(sys, "executable", "/there/is/no/python")
    with pytest.raises(FailedPrecondition, match="No such file"):
        ProcessEngine(CHILD)
    assert _resources() == before


def test_a_system_without_processes_to_give_is_tried_again(child: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_engine, "BACK_OFF_S", (0.0, 0.01))
    session = child.open("add_one")
    starting, refusals = DeviceProcess, iter([OSError("Resource temporarily unavailable")] * 3)

    def start(device: Device) -> DeviceProcess:
        for refusal in refusals:
            raise refusal
        return starting(device)

    monkeypatch.setattr(process_engine, "DeviceProcess", start)
    child.process.kill()
    child.wait_until_restarted()
    assert child.engine.restarts == 4
    assert add_one(session) == [[2, 2]]


def test_54_a_run_beyond_the_devices_memory_is_an_overload_and_the_next_one_works(repository: Path) -> None:
    with watched(replace(CHILD, memory_limit_mb=128), repository) as child:
        session = child.open("add_one")
        with pytest.raises(Overloaded, match="memory"):
            session.run({"x": np.ones((1, 2**26), np.float32)}, ["y"])
        assert add_one(session) == [[2, 2]]
        assert child.engine.restarts == 0


def test_a_process_that_is_told_to_trim_gives_back_what_a_large_run_took(repository: Path) -> None:
    with watched(replace(CHILD, watchdog_s=30), repository) as child:
        session = child.open("add_one")
        assert add_one(session) == [[2, 2]]
        session.run({"x": np.ones((1, 2**25), np.float32)}, ["y"])
        before_mb = child.process.memory_info().rss / 2**20

        session.trim()
        assert add_one(session) == [[2, 2]]

        assert child.process.memory_info().rss / 2**20 < before_mb - 60


@pytest.mark.parametrize("limit_mb", [32, 64, 128])
def test_a_run_that_was_refused_for_its_size_leaves_the_memory_to_others(repository: Path, limit_mb: int) -> None:
    with watched(replace(CHILD, memory_limit_mb=limit_mb), repository) as child:
        session = child.open("add_one")
        for _ in range(2):
            with pytest.raises(Overloaded, match="memory"):
                session.run({"x": np.ones((1, 2**26), np.float32)}, ["y"])
            quarter = np.ones((1, limit_mb * 2**20 // 4 // 4), np.float32)
            assert session.run({"x": quarter}, ["y"])[0][0, -1] == 2


def test_56_a_model_beyond_the_devices_memory_says_so(tmp_path: Path, repository: Path) -> None:
    models.save(tmp_path, "large", models.mlp((8, 2_000_000, 2)))
    with watched(replace(CHILD, memory_limit_mb=16), repository) as child:
        with pytest.raises(ServingError, match=r"(?i)memory|alloc"):
            child.engine.open(tmp_path / "large/1/model.onnx", RuntimeOptions())
        assert add_one(child.open("add_one")) == [[2, 2]]


def test_a_session_that_nobody_holds_is_closed_in_the_process(child: Watched, tmp_path: Path) -> None:
    models.save(tmp_path, "large", models.mlp((8, 2_000_000, 2)))
    stays = child.open("add_one")
    empty = child.process.memory_info().rss
    large = child.engine.open(tmp_path / "large/1/model.onnx", RuntimeOptions())
    assert child.process.memory_info().rss > empty + 60_000_000
    del large
    until(lambda: child.process.memory_info().rss < empty + 60_000_000)
    assert add_one(stays) == [[2, 2]]


def test_a_session_that_nobody_holds_is_not_opened_again(child: Watched, tmp_path: Path) -> None:
    models.save(tmp_path, "once", models.add_constant(1))
    session = child.engine.open(tmp_path / "once/1/model.onnx", RuntimeOptions())
    add_one(session)
    del session
    gc.collect()
    (tmp_path / "once/1/model.onnx").unlink()
    kept = child.open("add_one")
    child.process.kill()
    child.wait_until_restarted()
    assert add_one(kept) == [[2, 2]]


def test_lanes_run_side_by_side_and_never_mix_answers_up(repository: Path) -> None:
    with watched(replace(CHILD, instances=3), repository) as child, ThreadPoolExecutor(8) as pool:
        session = child.open("add_one")

        def run(number: int) -> bool:
            row = np.full((1, 1 + number % 7 * 500), number, np.float32)
            return add_one(session, row) == (row + 1).tolist()

        assert all(pool.map(run, range(600)))


def test_one_slow_run_holds_up_no_other_lane(repository: Path) -> None:
    with watched(replace(CHILD, instances=2), repository) as child:
        slow, quick = child.open("slow"), child.open("add_one")
        with in_background(lambda: run_for_ever(child, slow)) as running:
            wait_until_busy(child.process)
            assert add_one(quick) == [[2, 2]]
            assert not running.done()
            child.process.kill()


def test_a_process_that_dies_fails_the_runs_of_every_lane_and_all_who_wait_for_one(repository: Path) -> None:
    with watched(replace(CHILD, instances=2), repository) as child, ThreadPoolExecutor(6) as pool:
        slow = child.open("slow")
        running = [pool.submit(run_for_ever, child, slow) for _ in range(6)]
        wait_until_busy(child.process)
        child.process.kill()
        assert {type(each.exception(timeout=10)) for each in running} == {DeviceLost}


def _resources() -> tuple[list[str], int, int]:
    gc.collect()
    process = psutil.Process()
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    descriptors = [os.readlink(link).split(":")[0] for link in links if link.is_symlink()]  # all but that of the listing itself
    return sorted(descriptors), len(process.children()), process.num_threads()


def test_twenty_restarts_leak_no_descriptor_no_process_and_no_memory(child: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_engine, "BACK_OFF_S", (0.0,))
    session = child.open("add_one")
    add_one(session, np.ones((1, 100_000), np.float32))
    before = _resources()
    for times in range(1, 21):
        child.process.kill()
        child.wait_until_restarted(times)
        add_one(session, np.ones((1, 100_000), np.float32))
    assert _resources() == before
    assert child.engine.restarts == 20


def test_stopping_ends_it_within_a_second_whatever_runs(repository: Path) -> None:
    with watched(CHILD, repository) as child:
        slow = child.open("slow")
        with in_background(lambda: run_for_ever(child, slow)) as running:
            wait_until_busy(child.process)
            started_s = time.monotonic()
            child.engine.stop()
            assert time.monotonic() - started_s < 1
            assert isinstance(running.exception(timeout=10), DeviceLost)
        assert child.states == []


def test_stopping_ends_a_process_that_hangs_while_it_is_starting(repository: Path, faults: Faults) -> None:
    with watched(CHILD, repository) as child:
        faults.at("start", "hang")
        child.process.kill()
        faults.wait_until_happening()
        started_s = time.monotonic()
        child.engine.stop()
        assert time.monotonic() - started_s < 1


def test_stopping_ends_the_wait_for_the_next_start(child: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_engine, "BACK_OFF_S", (60.0,))
    child.process.kill()
    until(lambda: child.states == [False])
    started_s = time.monotonic()
    child.engine.stop()
    assert time.monotonic() - started_s < 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_leave_it_to_its_parent(child: Watched, number: signal.Signals) -> None:
    session = child.open("add_one")
    child.process.send_signal(number)
    assert add_one(session) == [[2, 2]]
    assert child.engine.restarts == 0


@pytest.mark.parametrize("doing", ["nothing", "a run", "a load"])
def test_it_ends_when_its_parent_is_killed(repository: Path, faults: Faults, doing: str) -> None:
    code = f"""
import sys, threading
from pathlib import Path
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices.device import Device
from turnout_server.devices.process_engine import ProcessEngine
import numpy as np

engine = ProcessEngine({CHILD!r})
path, doing = Path(sys.argv[1]), sys.argv[2]
session = engine.open(path, RuntimeOptions())
session.run({{"x": np.ones((1, 1), np.float32)}}, ["y"])
work = {{
    "nothing": lambda: None,
    "a run": lambda: session.run({{"x": np.ones((1, 1), np.float32)}}, ["y"]),
    "a load": lambda: engine.open(path, RuntimeOptions()),
}}
print(engine.process().pid, flush=True)
sys.stdin.readline()
threading.Thread(target=work[doing], daemon=True).start()
sys.stdin.readline()
"""
    path = str(repository / "add_one/1/model.onnx")
    with subprocess.Popen(
        [sys.executable, "-c", code, path, doing], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        child = psutil.Process(int(parent.stdout.readline()))
        if doing != "nothing":
            faults.at({"a run": "run", "a load": "load"}[doing], "hang")
        parent.stdin.write("go\n")
        parent.stdin.flush()
        if doing != "nothing":
            faults.wait_until_happening()
        parent.kill()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
