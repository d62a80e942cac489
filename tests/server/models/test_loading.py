"""A model gets as many threads as its size is worth; its requests share runs only if that was shown to change nothing."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from turnout_server.core.model_config import ModelConfiguration, RuntimeOptions
from turnout_server.devices.device import cpu
from turnout_server.devices.sessions import Session
from turnout_server.models.loading import SMALL_US, Loader
from turnout_server.models.profile_store import ProfileStore
from turnout_server.observability.model_metrics import ModelMetrics
from turnout_server.rpc import describe

from tests.server.fakes import AddingSession, FakeEngine


class Taking(AddingSession):
    """A session whose runs take so long."""

    def __init__(self, run_us: float) -> None:
        super().__init__()
        self.run_us = run_us

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        until_s = time.perf_counter() + self.run_us * 1e-6
        while time.perf_counter() < until_s:
            pass
        return super().run(inputs, outputs)


@dataclass
class Threaded(FakeEngine):
    """The engine of a CPU with two threads, on which runs take `shared_us`, and `alone_us` with one thread."""

    shared_us: float
    alone_us: float
    opened: list[int | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__("cpu")
        self.device = replace(cpu(), threads=2)

    def open(self, path: Path, options: RuntimeOptions) -> Session:
        self.opened.append(options.intra_op_threads)
        return Taking(self.shared_us if options.intra_op_threads is None else self.alone_us)


@pytest.mark.parametrize(
    ("shared_us", "alone_us", "opened", "kept_us"),
    [
        pytest.param(400, 100, [None, 1], 100, id="small and faster alone"),
        pytest.param(100, 400, [None, 1], 100, id="small and faster shared"),
        pytest.param(SMALL_US + 500, 100, [None], SMALL_US + 500, id="large: not tried"),
    ],
)
def test_a_small_model_keeps_one_thread_where_that_is_not_slower(
    tmp_path: Path, shared_us: float, alone_us: float, opened: list[int | None], kept_us: float
) -> None:
    engine = Threaded(shared_us, alone_us)
    session = _loaded(engine, tmp_path, RuntimeOptions())
    assert engine.opened == opened
    assert isinstance(session, Taking)
    assert session.run_us == kept_us


def test_threads_that_were_configured_are_not_second_guessed(tmp_path: Path) -> None:
    engine = Threaded(100, 50)
    _loaded(engine, tmp_path, RuntimeOptions(intra_op_threads=2))
    assert engine.opened == [2]


def _loaded(engine: Threaded, directory: Path, runtime: RuntimeOptions) -> Session:
    version = directory / "1"
    version.mkdir()
    (version / "model.onnx").touch()
    model = Loader({"cpu": engine}, ProfileStore(None)).load(version, 1, ModelConfiguration("m", runtime=runtime))
    return model.deployments["cpu"].session


class Mixing(AddingSession):
    """A session whose rows depend on each other."""

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        (y,) = super().run(inputs, outputs)
        return [y + y.sum(axis=0)]


@dataclass
class Opens(FakeEngine):
    """The engine of a device that opens every model as the same session."""

    name: str
    session: Session

    def __post_init__(self) -> None:
        super().__init__(self.name)

    def open(self, path: Path, options: RuntimeOptions) -> Session:
        return self.session


@pytest.mark.parametrize("other", [AddingSession(), Mixing()], ids=["adds", "mixes rows"])
def test_a_model_whose_rows_depend_on_each_other_on_any_device_is_served_unbatched_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: Session
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").touch()
    engines = {"cpu": Opens("cpu", AddingSession()), "cpu:b": Opens("cpu:b", other)}
    configuration = ModelConfiguration("m", max_batch_size=8, tolerance=math.inf)
    model = Loader(engines, ProfileStore(None)).load(tmp_path / "1", 1, configuration)

    independent = not isinstance(other, Mixing)
    (gauge,) = (family for family in ModelMetrics(lambda: [model]).collect() if family.name == "turnout_model_joins")
    assert [sample.value for sample in gauge.samples] == [independent]
    assert describe.configuration(model).HasField("dynamic_batching") is independent
    assert {deployment.effective_max_batch for deployment in model.deployments.values()} == ({8} if independent else {1})
    assert ("m is served unbatched: rows run together could not be shown to equal rows run alone on cpu:b" in caplog.text) is (
        not independent
    )
