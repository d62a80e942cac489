"""A run on each core is tried where there is a choice, and pays where it gets more done."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from turnout_server.core.errors import Overloaded
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices.device import cpu
from turnout_server.devices.sessions import Session
from turnout_server.devices.weight_files import WeightFiles
from turnout_server.models import core_trial
from turnout_server.models.core_trial import CoreTrial, Measured, is_open, keys_of, opened, per_core
from turnout_server.models.deployments import Deployment
from turnout_server.models.profile_store import ProfileKey
from turnout_server.models.tuning import ModelFile

from tests.server.fakes import AddingSession, FakeEngine, deployment, profile

#: A file that is there and doesn't change.
MODEL = Path(__file__)


class Sleeping(AddingSession):
    """A session whose runs take `row_ms` for each row, however many there are at a time."""

    row_ms = 5.0

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        sleep(self.row_ms * len(inputs["a"]) * 1e-3)
        return super().run(inputs, outputs)


class OpensSleeping(FakeEngine):
    """The engine of a CPU of two threads, which opens every model with a single one."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.device = replace(cpu(), threads=2)

    def open(self, path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> Session:
        assert options.intra_op_threads == 1
        return Sleeping()


class Memory:
    """What this process uses and may use, in bytes; its first run takes 100."""

    def __init__(self) -> None:
        self.resident, self.usable, self.grows = 1000.0, 10_000.0, True

    def run(self, inputs: Mapping[str, np.ndarray]) -> None:
        sleep(1e-3)
        self.resident += 100 * self.grows


def model(measured_us: Mapping[int, float], **options: Any) -> Deployment:
    file = ModelFile(OpensSleeping(), WeightFiles.of(MODEL), RuntimeOptions())
    usual: dict[str, Any] = {"profile": profile(measured_us), "file": file, "cores": 2}
    return deployment(Sleeping(), **(usual | options))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"cores": 0}, False),
        ({"cores": 1}, False),
        ({"file": None}, False),
        ({"profile": profile({})}, False),
        ({"profile": profile({1: core_trial.SHORTEST_RUN_US - 1})}, False),
        ({"profile": profile({1: core_trial.LONGEST_RUN_US / 2 + 1})}, False),
    ],
    ids=["a choice", "none", "one core", "no file", "not measured", "run in the transport's thread", "long runs"],
)
def test_it_is_tried_where_there_is_a_choice(options: dict[str, Any], expected: bool) -> None:
    assert is_open(model({1: 1000.0}, **options)) is expected


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    memory = Memory()
    monkeypatch.setattr(core_trial, "resident_bytes", lambda: memory.resident)
    monkeypatch.setattr(core_trial, "usable_memory_bytes", lambda: memory.usable)
    return memory


def test_a_model_that_may_not_fit_into_memory_twice_is_not_tried(memory: Memory) -> None:
    memory.usable = (memory.resident + MODEL.stat().st_size * core_trial.LOADING) / core_trial.MEMORY_SHARE
    assert not is_open(model({1: 1000.0}))
    memory.usable += 2
    assert is_open(model({1: 1000.0}))


@pytest.mark.parametrize(("usable", "sizes"), [(2400, {"1", "2", "4"}), (1900, {"1", "2"}), (1700, {"1"}), (1600, None)])
def test_runs_on_each_core_take_no_more_memory_than_there_is(memory: Memory, usable: float, sizes: set[str] | None) -> None:
    """A run takes 100 bytes for each row, so twice as much with one on each of two cores."""
    memory.usable = usable
    tried = model({1: 1000.0})
    session = opened(tried)
    assert isinstance(session, Sleeping)
    session.row_ms = 0.0
    session.trouble = memory.run
    if sizes is None:
        with pytest.raises(Overloaded, match="0 MiB for a run on each of 2 cores may not be there"):
            CoreTrial(tried, session)
        return
    trial = CoreTrial(tried, session)
    memory.grows = False
    trial.turn(tried)
    assert set(trial.measured(tried).per_core.saved()) == sizes


def test_two_runs_at_a_time_that_do_not_slow_each_other_down_carry_twice_as_much() -> None:
    tried = model({1: 15_000.0, 2: 30_000.0, 4: 60_000.0, 8: 120_000.0})
    session = opened(tried)
    assert isinstance(session, Sleeping)
    assert isinstance(tried.session, Sleeping)
    session.row_ms = tried.session.row_ms = 15.0  # so long that what else the machine does matters little
    trial = CoreTrial(tried, session)
    for _ in range(core_trial.TURNS):
        trial.turn(tried)
    measured = trial.measured(tried)
    assert set(measured.per_core.saved()) == {"1", "2"}  # two rows take twice as long, so four weren't tried
    carried = measured.rates(2)
    assert carried.pays
    assert 1.1 <= carried.per_core / carried.together < 4  # 2 on a machine that does nothing else
    way = per_core(tried, session, measured)
    assert way is not None
    assert (way.session, way.cores, way.effective_max_batch, way.least_requests) == (session, 2, 1, 2)
    assert session.trims == [len(session.runs) - 1]  # larger runs than requests make leave no memory behind


def test_sizes_are_tried_while_they_make_a_row_cheaper() -> None:
    tried = model({1: 1000.0})
    session = opened(tried)
    assert isinstance(session, Sleeping)
    session.row_ms = 0.0
    session.trouble = lambda inputs: sleep(1e-3)
    trial = CoreTrial(tried, session)
    trial.turn(tried)
    assert set(trial.measured(tried).per_core.saved()) == {"1", "2", "4"}


def test_what_gets_hardly_more_done_does_not_pay() -> None:
    tried, together = model({1: 10_000.0, 2: 20_000.0}), profile({2: 20_000.0})
    slow = Measured(together, profile({1: 19_000.0, 2: 38_000.0}))
    assert slow.rates(2) == pytest.approx((100.0, 2 / 0.019))
    assert not slow.rates(2).pays
    assert per_core(tried, AddingSession(), slow) is None
    assert per_core(tried, AddingSession(), Measured(together, profile({1: 17_000.0, 2: 34_000.0}))) is not None


@pytest.mark.parametrize("largest", [1, 2, 4])
def test_runs_on_a_core_never_have_more_rows_than_were_tried(largest: int) -> None:
    """There may not be the memory for more, however cheap a row becomes."""
    tried = model({1: 10_000.0}, max_rows=64)
    fast = profile({rows: 10_000.0 for rows in (1, 2, 4) if rows <= largest})
    way = per_core(tried, AddingSession(), Measured(profile({1: 10_000.0}), fast))
    assert way is not None
    for _ in range(100):
        way.observe(largest, 10_000.0)
    assert (way.max_rows, way.effective_max_batch) == (largest, largest)


def test_a_model_so_small_that_it_has_one_thread_anyway_is_not_loaded_again() -> None:
    tried = model({1: 1000.0})
    assert opened(tried) is not tried.session
    assert tried.file is not None
    assert opened(replace(tried, file=tried.file.of_one_thread())) is tried.session


def test_a_batch_of_a_model_whose_requests_cannot_be_batched_is_never_larger_on_a_core() -> None:
    fast = profile({1: 10_000.0, 2: 10_000.0})
    way = per_core(model({1: 10_000.0}, batchable=False), AddingSession(), Measured(profile({1: 10_000.0}), fast))
    assert way is not None
    assert way.effective_max_batch == 1


def test_what_a_trial_measured_is_kept_under_keys_of_its_own() -> None:
    key = ProfileKey("abc", "model.onnx", "cpu x2", "1.32.0", "defaults")
    assert keys_of(model({})) is None
    found = [keys_of(model({}, profile_key=key, cores=cores)) for cores in (2, 4)]
    names = {own.name for keys in found if keys for own in keys}
    assert len(names | {key.name}) == 5


def test_no_run_of_a_trial_takes_longer_than_it_may() -> None:
    tried = model({1: 5000.0, 2: 6000.0, 8: 8000.0})
    assert tried.effective_max_batch == 8
    assert not is_open(tried, longest_us=9000)
    assert is_open(tried, longest_us=10_000)
    assert isinstance(tried.session, Sleeping)
    trial = CoreTrial(tried, opened(tried), longest_us=7000)
    trial.turn(tried)
    assert tried.session.runs == [1]
    assert set(trial.measured(tried).per_core.saved()) == {"1"}  # two rows might take 10 ms
