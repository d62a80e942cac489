"""A model gets as many threads as its size is worth; its requests share runs only if that was shown to change nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turnout_server.core.model_config import ModelConfiguration, Queue, RuntimeOptions
from turnout_server.devices.device import cpu
from turnout_server.devices.sessions import Session
from turnout_server.models.loading import Loader
from turnout_server.models.profile_store import ProfileStore
from turnout_server.observability.model_metrics import ModelMetrics
from turnout_server.rpc import describe

from tests.server.fakes import AddingSession, FakeEngine


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

    def open(self, path: Path, options: RuntimeOptions, buckets: Sequence[int] = (), *, graphs: bool = False) -> Session:
        return self.session


@pytest.mark.parametrize("other", [AddingSession(), Mixing()], ids=["adds", "mixes rows"])
def test_a_model_whose_rows_depend_on_each_other_on_a_device_is_served_unbatched_there_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: Session
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").touch()
    engines = {"cpu": Opens("cpu", AddingSession()), "cpu:b": Opens("cpu:b", other)}
    configuration = ModelConfiguration("m", max_batch_size=8, tolerance=math.inf)
    model = Loader(engines, ProfileStore(None)).load(tmp_path / "1", 1, configuration)

    independent = not isinstance(other, Mixing)
    (gauge,) = (
        family for family in ModelMetrics(lambda: [model], lambda _: (0, 0)).collect() if family.name == "turnout_model_joins"
    )
    assert [sample.value for sample in gauge.samples] == [1]
    assert describe.configuration(model).HasField("dynamic_batching")
    batches = {name: deployment.effective_max_batch for name, deployment in model.deployments.items()}
    assert batches == {"cpu": 8, "cpu:b": 8 if independent else 1}
    warning = "m is served unbatched on cpu:b: rows run together could not be shown to equal rows run alone"
    assert (warning in caplog.text) is (not independent)


def test_a_model_whose_rows_depend_on_each_other_everywhere_is_not_batchable(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").touch()
    model = Loader({"cpu": Opens("cpu", Mixing())}, ProfileStore(None)).load(
        tmp_path / "1", 1, ModelConfiguration("m", max_batch_size=8, tolerance=math.inf)
    )
    assert not model.batchable
    assert not describe.configuration(model).HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("device", "configuration", "cores"),
    [
        ({}, {}, 2),
        ({"threads": 4}, {}, 4),
        ({"per_core": False}, {}, 0),
        ({}, {"runtime": RuntimeOptions(intra_op_threads=1)}, 0),
        ({}, {"instances": {"cpu": 1}}, 0),
        ({}, {"queue": Queue(max_delay_us=100)}, 0),
        ({}, {"queue": Queue(preferred_rows=(4,))}, 0),
    ],
    ids=["by default", "of four", "instances were declared", "threads", "instances of the model", "a delay", "preferred rows"],
)
def test_a_model_may_have_a_run_on_each_core_unless_its_runs_were_arranged(
    tmp_path: Path, device: dict[str, Any], configuration: dict[str, Any], cores: int
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").touch()
    engine = Opens("cpu", AddingSession())
    engine.device = replace(cpu(), **({"threads": 2} | device))
    asked = ModelConfiguration("m", max_batch_size=8, tolerance=math.inf, **configuration)
    model = Loader({"cpu": engine}, ProfileStore(None)).load(tmp_path / "1", 1, asked)
    assert model.deployments["cpu"].cores == cores
