"""How often a tensor is copied on its way from a decoded request to its outcome."""

import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from turnout_server.core.metrics import Metrics
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices import device as devices
from turnout_server.devices.process_engine import ProcessEngine
from turnout_server.devices.sessions import Session
from turnout_server.serving.batch_run import BatchRunner
from turnout_server.serving.job import Execution, Job, Outcome

from tests import models
from tests.server.fakes import AddingSession, deployment

#: 2.4 MB: four rows of an image classifier.
SHAPE = (4, 3, 224, 224)
BYTES = 4 * 4 * 3 * 224 * 224


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session in a process of its own that gives back what it gets."""
    root = tmp_path_factory.mktemp("models")
    models.save(root, "m", models.identity("FP32", [-1, *SHAPE[1:]]))
    engine = ProcessEngine(replace(devices.cpu(), name="cpu:child", threads=1, isolated=True))
    try:
        yield engine.open(root / "m/1/model.onnx", RuntimeOptions())
    finally:
        engine.stop()


class Passing(AddingSession):
    """A session in the server's process; its output is its input."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: np.ndarray | None = None

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        (self.seen,) = inputs.values()
        return [self.seen for _ in outputs]


def run(session: Session, arrays: Sequence[np.ndarray]) -> float:
    """Runs requests in one batch, and checks their answers.

    Returns:
        How many times each tensor was copied into a new array.
    """
    tenant = deployment(session, max_rows=64)
    right: list[bool] = []

    def job(array: np.ndarray) -> Job:
        def done(outcome: Outcome) -> None:
            assert isinstance(outcome, Execution), outcome
            right.append(all((row == own).all() for row, own in zip(outcome.outputs[0], array, strict=True)))

        return Job(tenant, {session.inputs[0].name: array}, (session.outputs[0].name,), len(array), "k", done)

    runner = BatchRunner("cpu", Metrics())
    runner.run([job(array) for array in arrays])  # memory for these shapes exists from now on
    tracemalloc.start()
    try:
        runner.run([job(array) for array in arrays])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert right == [True] * (2 * len(arrays))
    return peak / (BYTES * len(arrays))


def requests(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).random(SHAPE, np.float32) for seed in range(count)]


def test_in_this_process_a_request_alone_is_not_copied() -> None:
    session = Passing()
    (array,) = requests(1)
    assert run(session, [array]) < 0.5
    assert session.seen is array


def test_in_this_process_a_batch_is_joined_once() -> None:
    assert 1.0 <= run(Passing(), requests(3)) < 1.5


@pytest.mark.parametrize("count", [1, 3])
def test_for_a_child_inputs_are_copied_into_its_memory_only_and_outputs_not_at_all(child: Session, count: int) -> None:
    assert run(child, requests(count)) < 0.5


def test_a_child_reads_and_writes_where_the_server_does(child: Session) -> None:
    (array,) = requests(1)
    with child.stage([{child.inputs[0].name: array}], [child.outputs[0].name]) as staged:
        (output,) = staged()
        assert not output.flags.owndata
        np.testing.assert_array_equal(output, array)
        output[...] = 0  # nobody but the next run writes there
        (again,) = staged()
        assert np.shares_memory(again, output)
        np.testing.assert_array_equal(again, array)
