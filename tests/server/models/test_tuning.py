"""How a model runs is found out by running it: with how many threads, padded or not, and how its convolutions lie."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from turnout_server.core.errors import FailedPrecondition
from turnout_server.core.model_config import ModelConfiguration, RuntimeOptions
from turnout_server.devices.buckets import bucket_for, bucket_sizes
from turnout_server.devices.device import cpu
from turnout_server.devices.sessions import Session
from turnout_server.devices.weight_files import WeightFiles
from turnout_server.models import warmup
from turnout_server.models.deployments import Deployment
from turnout_server.models.loading import Loader
from turnout_server.models.profile_store import ProfileStore
from turnout_server.models.profiler import Profiler
from turnout_server.models.tuning import LONGEST_PREPARATION_US, SMALL_US, ModelFile, with_fitting_threads

from tests.server.fakes import AddingSession, FakeEngine

MAX_ROWS = 32
#: ResNet-50 on an H200, roughly: one row takes 0.9 ms, 32 take 5.4, and a change of size costs 160.
RUN_US, ROW_US, CHANGE_US = 800.0, 140.0, 160_000.0


def cost_us(rows: int) -> float:
    return RUN_US + ROW_US * rows


class Time:
    """Passes only while something runs."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


@dataclass(eq=False)
class Planning(AddingSession):
    """A session that plans its kernels anew when the batch size changes; with buckets, each has plans of its own."""

    time: Time = field(default_factory=Time)
    change_us: float = CHANGE_US
    speed: float = 1.0
    error: float = 0.0
    planned: set[int] = field(default_factory=set)

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        rows = len(inputs["a"])
        executed = bucket_for(rows, self.buckets) or rows
        if executed not in self.planned:
            self.planned = {*self.planned, executed} if self.buckets else {executed}
            self.time.now_s += self.change_us * 1e-6
        self.time.now_s += cost_us(executed) / self.speed * 1e-6
        return [output * (1 + self.error) for output in super().run(inputs, outputs)]


@dataclass
class Gpu(FakeEngine):
    """A GPU whose sessions plan.

    Attributes:
        opened: the buckets of each session, and whether graphs were to be tried.
        refusal: why there are no sessions with buckets.
        layouts: how sessions with these options differ; others are refused.
    """

    time: Time
    isolated: bool = True
    change_us: float = CHANGE_US
    refusal: str = ""
    layouts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    opened: list[tuple[tuple[int, ...], bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__("cuda:0")
        options = {"device_id": "0"}
        self.device = replace(self.device, provider="CUDAExecutionProvider", isolated=self.isolated, provider_options=options)

    def open(self, path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> Session:
        layout = "+".join(options.cuda)
        if layout and layout not in self.layouts:
            raise FailedPrecondition("CUDNN failure")
        self.opened.append((tuple(buckets), graphs))
        if buckets and self.refusal:
            raise FailedPrecondition(self.refusal)
        differences: dict[str, Any] = {"change_us": self.change_us, **self.layouts.get(layout, {})}
        return Planning(buckets=tuple(buckets), time=self.time, **differences)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(warmup, "time", SimpleNamespace(perf_counter=made.perf_counter))
    return made


def deployed(engine: Gpu, directory: Path, options: RuntimeOptions | None = None) -> Deployment:
    """A model on the GPU, with its profile measured."""
    version = directory / "1"
    version.mkdir()
    (version / "model.onnx").touch()
    configuration = ModelConfiguration("m", max_batch_size=MAX_ROWS, runtime=options or RuntimeOptions())
    store = ProfileStore(None)
    model = Loader({"cuda:0": engine}, store).load(version, 1, configuration)
    profiler = Profiler(store, idle=lambda device: True, budget_s=10.0)
    profiler.add(model)
    profiler.settle()
    profiler.stop()
    return model.deployments["cuda:0"]


def served_us(deployment: Deployment, time: Time, sizes: Sequence[int]) -> float:
    """What each row of these runs takes."""
    began_s = time.now_s
    for rows in sizes:
        warmup.timed_us(deployment.session, rows, batched=True)
    return (time.now_s - began_s) * 1e6 / sum(sizes)


@pytest.mark.parametrize("isolated", [True, False])
def test_a_model_that_pays_for_changes_of_size_is_padded_and_tries_graphs_in_a_process_of_its_own(
    tmp_path: Path, time: Time, isolated: bool
) -> None:
    engine = Gpu(time=time, isolated=isolated)
    deployment = deployed(engine, tmp_path)
    assert engine.opened == [((), False), (bucket_sizes(MAX_ROWS), isolated)]
    assert deployment.buckets == bucket_sizes(MAX_ROWS)


def test_its_profile_tells_what_runs_take_and_not_what_changes_of_size_do(tmp_path: Path, time: Time) -> None:
    deployment = deployed(Gpu(time=time), tmp_path)
    for rows in range(1, MAX_ROWS + 1):
        assert deployment.predict_us(rows) == pytest.approx(cost_us(bucket_for(rows, bucket_sizes(MAX_ROWS))), rel=1e-6)
    assert deployment.effective_max_batch == MAX_ROWS


def test_mixed_batch_sizes_are_served_nearly_as_fast_as_one_size(tmp_path: Path, time: Time) -> None:
    deployment = deployed(Gpu(time=time), tmp_path)
    mixed = random.Random(0).choices(range(1, MAX_ROWS + 1), k=200)
    steady = [sum(mixed) // len(mixed)] * len(mixed)
    assert served_us(deployment, time, steady) / served_us(deployment, time, mixed) > 0.8


def test_without_buckets_it_would_be_many_times_slower(tmp_path: Path, time: Time) -> None:
    """The trap that padding avoids, so that the tests above can't pass by a device that never charges."""
    deployment = deployed(Gpu(time=time, refusal="no memory"), tmp_path)
    assert deployment.buckets == ()
    assert served_us(deployment, time, [8] * 20) * 10 < served_us(deployment, time, [7, 8] * 10)


def test_a_model_that_does_not_care_keeps_its_session_where_graphs_are_not_faster(tmp_path: Path, time: Time) -> None:
    engine = Gpu(time=time, change_us=0.0)
    deployment = deployed(engine, tmp_path)
    assert [graphs for _, graphs in engine.opened] == [False, True]
    assert deployment.buckets == ()


def test_a_model_that_does_not_care_is_not_padded_where_there_are_no_graphs(tmp_path: Path, time: Time) -> None:
    engine = Gpu(time=time, change_us=0.0, isolated=False)
    assert deployed(engine, tmp_path).buckets == ()
    assert engine.opened == [((), False)]


def test_a_device_that_pads_for_graphs_only_may_still_have_larger_batches(tmp_path: Path, time: Time) -> None:
    engine = Gpu(time=time)
    engine.device = replace(engine.device, graph_rows=(1, 4))
    deployment = deployed(engine, tmp_path)
    assert deployment.buckets == (1, 4)
    assert deployment.max_rows == MAX_ROWS
    assert deployment.sizes(MAX_ROWS) == (1, 4, 8, 16, 32)


BOTH, NHWC = "prefer_nhwc+fuse_conv_bias", "prefer_nhwc"


@pytest.mark.parametrize(
    ("layouts", "speed"),
    [
        pytest.param({BOTH: {"speed": 1.7}, NHWC: {"speed": 1.2}}, 1.7, id="both are fastest"),
        pytest.param({NHWC: {"speed": 1.2}}, 1.2, id="cuDNN has no kernels for both"),
        pytest.param({BOTH: {"speed": 1.05}, NHWC: {"speed": 0.5}}, 1.0, id="no gain"),
        pytest.param({BOTH: {"speed": 1.7, "error": 0.1}, NHWC: {"speed": 1.2, "error": 1e-4}}, 1.2, id="both are wrong"),
        pytest.param({BOTH: {"speed": 1.7, "change_us": 2 * LONGEST_PREPARATION_US}}, 1.0, id="preparing takes too long"),
    ],
)
def test_convolutions_lie_as_they_are_fastest_and_still_right(
    tmp_path: Path, time: Time, layouts: Mapping[str, Mapping[str, float]], speed: float
) -> None:
    deployment = deployed(Gpu(time=time, layouts=layouts), tmp_path)
    assert isinstance(deployment.session, Planning)
    assert deployment.session.speed == speed
    assert deployment.buckets == bucket_sizes(MAX_ROWS)
    stated = [note for note in deployment.report.notes if note.endswith(f": {speed:.1f} times as fast")]
    assert len(stated) == (speed > 1)


def test_a_layout_that_was_configured_is_kept(tmp_path: Path, time: Time) -> None:
    engine = Gpu(time=time, layouts={BOTH: {"speed": 1.7}, NHWC: {"speed": 1.2}})
    options = RuntimeOptions(cuda={"prefer_nhwc": "0"})
    assert deployed(engine, tmp_path, options).session.speed == 1.2  # type: ignore[attr-defined]
    assert len(engine.opened) == 2


@dataclass
class Threaded(FakeEngine):
    """The engine of a CPU with two threads, on which runs take `shared_us`, and `alone_us` with one thread."""

    time: Time
    shared_us: float
    alone_us: float
    opened: list[int | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__("cpu")
        self.device = replace(cpu(), threads=2)

    def open(self, path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> Session:
        self.opened.append(options.intra_op_threads)
        run_us = self.shared_us if options.intra_op_threads is None else self.alone_us
        return Planning(time=self.time, change_us=0.0, speed=cost_us(1) / run_us)


@pytest.mark.parametrize(
    ("shared_us", "alone_us", "opened", "kept"),
    [
        pytest.param(400, 100, [None, 1], 1, id="small and faster alone"),
        pytest.param(100, 400, [None, 1], None, id="small and faster shared"),
        pytest.param(SMALL_US + 500, 100, [None], None, id="large: not tried"),
    ],
)
def test_a_small_model_gets_one_thread_where_that_is_faster(
    time: Time, shared_us: float, alone_us: float, opened: list[int | None], kept: int | None
) -> None:
    engine = Threaded(time, shared_us, alone_us)
    model, session = with_fitting_threads(ModelFile(engine, WeightFiles.of(Path("model.onnx")), RuntimeOptions()))
    assert engine.opened == opened
    assert model.options.intra_op_threads == kept
    assert isinstance(session, Planning)
    assert session.speed == pytest.approx(cost_us(1) / (shared_us if kept is None else alone_us))


def test_threads_that_were_configured_are_not_second_guessed(time: Time) -> None:
    engine = Threaded(time, 100, 50)
    with_fitting_threads(ModelFile(engine, WeightFiles.of(Path("model.onnx")), RuntimeOptions(intra_op_threads=2)))
    assert engine.opened == [2]
