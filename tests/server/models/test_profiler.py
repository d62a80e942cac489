import gc
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
from turnout_server.core.errors import Overloaded
from turnout_server.core.model_config import ModelConfiguration, RuntimeOptions
from turnout_server.core.signatures import Signature
from turnout_server.devices.weight_files import WeightFiles
from turnout_server.models import core_trial, warmup
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.profile_store import ProfileKey, ProfileStore
from turnout_server.models.profiler import LONGEST_RUN_S, MOST_RUNS, RUNS, Profiler
from turnout_server.models.tuning import ModelFile

from tests.faulty import until
from tests.server.fakes import AddingSession, FakeEngine, deployment

KEY = ProfileKey("abc", "model.onnx", "cpu x2", "1.32.0", "defaults")


def version(session: AddingSession, first_us: float = 10, max_batch_size: int = 8) -> ModelVersion:
    signature = Signature(session.inputs, session.outputs, max_batch_size)
    on_cpu = deployment(session, profile_key=KEY, batchable=max_batch_size > 0, max_rows=max(1, max_batch_size))
    on_cpu.profile.observe(1, first_us)
    return ModelVersion("adds", 1, ModelConfiguration("adds"), signature, {"cpu": on_cpu}, {})


class Made:
    def __init__(self, directory: Path, budget_s: float = 10) -> None:
        self.busy: set[str] = set()
        self.directory = directory
        self.store = ProfileStore(directory)
        self.profiler = Profiler(self.store, lambda device: device not in self.busy, budget_s)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    made = Made(tmp_path)
    yield made
    made.profiler.stop()


def test_every_power_of_two_up_to_the_limit_is_measured_and_kept(made: Made) -> None:
    session = AddingSession()
    model = version(session)
    made.profiler.add(model)
    made.profiler.settle()
    (measured,) = session.trims
    assert all(RUNS <= session.runs[:measured].count(rows) <= MOST_RUNS for rows in (1, 2, 4, 8))
    kept = made.store.load(KEY)
    assert kept is not None
    assert kept.saved() == model.deployments["cpu"].profile.saved()


def takes(monkeypatch: pytest.MonkeyPatch, row_us: float, machine: Iterable[float] = ()) -> list[int]:
    """Has each run take `row_us` for each row, times what the machine is slower by then; returns the runs that will be made."""
    runs: list[int] = []
    slowed = chain(machine, repeat(1.0))

    def timed_us(session: AddingSession, rows: int, **options: object) -> float:
        runs.append(rows)
        return row_us * rows * next(slowed)

    monkeypatch.setattr(warmup, "timed_us", timed_us)
    return runs


@pytest.mark.parametrize(("row_us", "runs"), [(2000, 5), (500, 10), (10, 50)])
def test_short_runs_are_repeated_more_often(made: Made, monkeypatch: pytest.MonkeyPatch, row_us: float, runs: int) -> None:
    made_runs = takes(monkeypatch, row_us)
    model = version(AddingSession(), row_us, max_batch_size=1)
    made.profiler.add(model)
    made.profiler.settle()
    assert made_runs == [1] * runs


def test_sizes_take_turns_so_that_a_machine_that_is_slow_for_a_while_makes_none_look_worse(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes(monkeypatch, 5000, [1.0] * 2 + [3.0] * 8)
    model = version(AddingSession())
    made.profiler.add(model)
    made.profiler.settle()
    predict_us = model.deployments["cpu"].predict_us
    assert [predict_us(rows) for rows in (1, 2, 4, 8)] == [5000, 10_000, 20_000, 40_000]


def test_the_memory_of_the_largest_runs_is_given_back_by_one_of_a_single_row(made: Made) -> None:
    session, single = AddingSession(), AddingSession()
    several, one = version(session), version(single, max_batch_size=1)
    made.profiler.add(several)
    made.profiler.add(one)
    made.profiler.settle()
    assert session.trims == [len(session.runs) - 1]
    assert session.runs[-1] == 1
    assert single.trims == []


def test_a_size_that_fails_keeps_no_other_from_being_measured(made: Made) -> None:
    def refuses_four(inputs: Mapping[str, np.ndarray]) -> None:
        if len(inputs["a"]) == 4:
            raise Overloaded("four rows do not fit")

    session = AddingSession(trouble=refuses_four)
    model = version(session)
    made.profiler.add(model)
    made.profiler.settle()
    assert session.runs.count(4) == 1
    assert [model.deployments["cpu"].profile.runs(rows) >= RUNS for rows in (1, 2, 4, 8)] == [True, True, False, True]


def test_a_model_whose_rows_cannot_be_joined_is_measured_with_one_row(made: Made) -> None:
    session = AddingSession()
    model = version(session, max_batch_size=0)
    made.profiler.add(model)
    made.profiler.settle()
    assert set(session.runs) == {1}


def test_what_is_known_is_not_measured_again(made: Made) -> None:
    session = AddingSession()
    model = version(session)
    for rows in (1, 2, 4, 8):
        model.deployments["cpu"].profile.measure(rows, [1.0] * RUNS)
    made.profiler.add(model)
    made.profiler.settle()
    assert session.runs == []


def test_runs_that_would_take_too_long_are_left_to_requests(made: Made) -> None:
    session = AddingSession()
    model = version(session, first_us=LONGEST_RUN_S * 1e6 * 2)
    made.profiler.add(model)
    made.profiler.settle()
    assert session.runs == []


def test_nothing_is_measured_while_somebody_waits_for_the_device(tmp_path: Path) -> None:
    made = Made(tmp_path, budget_s=0.2)
    made.busy.add("cpu")
    session = AddingSession()
    model = version(session)
    made.profiler.add(model)
    made.profiler.settle()
    assert session.runs == []
    made.busy.clear()
    assert session.started.acquire(timeout=10)
    made.profiler.stop()


def test_without_a_budget_nothing_is_measured(tmp_path: Path) -> None:
    made = Made(tmp_path, budget_s=0)
    session = AddingSession()
    model = version(session)
    made.profiler.add(model)
    made.profiler.settle()
    made.profiler.stop()
    assert session.runs == []


class OpensAgain(FakeEngine):
    """The engine of a CPU of two threads, which opens a model as a session of its own every time."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.opened: list[RuntimeOptions] = []

    def open(self, path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> AddingSession:
        self.opened.append(options)
        return AddingSession()


def with_a_choice(monkeypatch: pytest.MonkeyPatch, one_core_us: float) -> tuple[ModelVersion, OpensAgain]:
    """A model whose rows take 1 ms on both cores, and `one_core_us` on one."""
    session, engine = AddingSession(), OpensAgain()
    model = version(session, 1000)
    on_cpu = model.deployments["cpu"]
    on_cpu.file, on_cpu.cores = ModelFile(engine, WeightFiles.of(Path("model.onnx")), RuntimeOptions()), 2

    def timed_us(asked: AddingSession, rows: int, **options: object) -> float:
        return rows * (1000 if asked is session else one_core_us)

    monkeypatch.setattr(warmup, "timed_us", timed_us)
    return model, engine


def test_a_model_has_a_run_on_each_core_if_that_gets_more_done(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = with_a_choice(monkeypatch, 1600)
    made.profiler.add(model)
    made.profiler.settle()
    on_cpu = model.deployments["cpu"]
    assert [options.intra_op_threads for options in engine.opened] == [1]
    assert on_cpu.rates == pytest.approx((1000, 1250))
    assert on_cpu.per_core is not None
    assert on_cpu.per_core.predict_us(1) == 1600


def test_what_was_found_out_about_cores_is_kept_for_the_next_start(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    for one_core_us, pays in ((1600, True), (1990, False)):
        for opened in (1, int(pays)):  # the second time it isn't even opened if it doesn't pay
            model, engine = with_a_choice(monkeypatch, one_core_us)
            made.profiler.add(model)
            made.profiler.settle()
            on_cpu = model.deployments["cpu"]
            assert len(engine.opened) == opened
            assert (on_cpu.per_core is not None) is pays
            assert on_cpu.rates == pytest.approx((1000, 2e6 / one_core_us))
        for key in core_trial.keys_of(model.deployments["cpu"]) or ():
            (made.directory / key.name).unlink()


@pytest.mark.parametrize("cores", [0, 2])
def test_a_model_is_not_loaded_again_without_a_choice_or_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    profiler = Profiler(ProfileStore(None), lambda device: True, 10, tries_cores=not cores)
    model, engine = with_a_choice(monkeypatch, 1600)
    model.deployments["cpu"].cores = cores
    profiler.add(model)
    profiler.settle()
    profiler.stop()
    assert not engine.opened
    assert model.deployments["cpu"].per_core is None


def test_a_model_that_cannot_be_opened_again_is_served_as_it_is(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = with_a_choice(monkeypatch, 1600)

    def fail(*what: object, **how: object) -> AddingSession:
        raise Overloaded("no memory")

    monkeypatch.setattr(engine, "open", fail)
    made.profiler.add(model)
    made.profiler.settle()
    assert model.deployments["cpu"].per_core is None
    assert model.deployments["cpu"].profile.runs(8) >= RUNS


def test_models_that_were_replaced_while_their_device_was_busy_are_gone(made: Made) -> None:
    """On a busy device a load after the other would otherwise keep every model that was ever loaded."""
    made.busy.add("cpu")
    models = [version(AddingSession()) for _ in range(5)]
    gone = [weakref.ref(model.deployments["cpu"]) for model in models]
    for model in models:
        made.profiler.add(model)
    session = AddingSession()
    last = version(session)
    made.profiler.add(last)
    del models, model
    gc.collect()
    until(lambda: [each() for each in gone] == [None] * 5)
    made.busy.clear()
    made.profiler.settle()
    assert session.runs


def test_a_model_that_is_replaced_during_its_trial_is_gone(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = with_a_choice(monkeypatch, 1600)
    timed = warmup.timed_us

    def busy_after_the_first(*what: object, **how: object) -> float:
        if engine.opened:
            made.busy.add("cpu")
        return timed(*what, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(warmup, "timed_us", busy_after_the_first)
    gone = weakref.ref(model.deployments["cpu"])
    made.profiler.add(model)
    until(lambda: "cpu" in made.busy)
    del model
    gc.collect()
    until(lambda: gone() is None)
    made.profiler.settle()


@pytest.mark.parametrize("where", ["measured", "tried"])
def test_an_error_that_nobody_expected_spoils_one_model_only(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    bad, engine = with_a_choice(monkeypatch, 1600)
    timed = warmup.timed_us

    def fail(asked: AddingSession, *what: object, **how: object) -> float:
        if asked is bad.deployments["cpu"].session and (where == "measured" or engine.opened):
            raise RuntimeError("can't start new thread")
        return timed(asked, *what, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(warmup, "timed_us", fail)
    made.profiler.add(bad)
    good = version(AddingSession(), 1000)
    made.profiler.add(good)
    made.profiler.settle()
    assert good.deployments["cpu"].profile.runs(8) >= RUNS
    assert "a model was not measured" in caplog.text
    assert bad.deployments["cpu"].per_core is None


def test_a_file_that_changes_before_the_trial_is_never_served_beside_the_one_that_was_loaded(
    made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, engine = with_a_choice(monkeypatch, 1600)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"as it was loaded")
    model.deployments["cpu"].file = ModelFile(engine, WeightFiles.of(path), RuntimeOptions())
    path.write_bytes(b"another one")
    made.profiler.add(model)
    made.profiler.settle()
    assert engine.opened
    assert (model.deployments["cpu"].per_core, model.deployments["cpu"].rates) == (None, None)
    for key in core_trial.keys_of(model.deployments["cpu"]) or ():
        assert made.store.load(key) is None


def test_the_next_start_decides_by_what_the_trial_saw_and_not_by_runs_under_load(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load, the way in use always looks slower than the other did when the machine was idle."""
    for start in (1, 2):
        model, engine = with_a_choice(monkeypatch, 1990)
        on_cpu = model.deployments["cpu"]
        for _ in range(100 * (start - 1)):
            on_cpu.observe(1, 1300)
        made.profiler.add(model)
        made.profiler.settle()
        assert on_cpu.rates == pytest.approx((1000, 2e6 / 1990))
        assert on_cpu.per_core is None
    assert not engine.opened
