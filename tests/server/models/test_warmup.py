import numpy as np
import pytest
from turnout_server.core.errors import InternalError
from turnout_server.core.signatures import TensorSpec
from turnout_server.devices.sessions import Session
from turnout_server.devices.synthetic import synthetic_inputs
from turnout_server.models.warmup import measured, quickest_us, rows_are_independent, timed_us

from tests.server.fakes import AddingSession, Clock, spec
from tests.wire import DTYPES


@pytest.mark.parametrize("datatype", DTYPES)
@pytest.mark.parametrize(("declared", "made"), [((), ()), ((-1,), (3,)), ((-1, -1, 4), (3, 2, 4)), ((5,), (5,))], ids=str)
def test_inputs_are_made_for_every_datatype_and_shape(datatype: str, declared: tuple[int, ...], made: tuple[int, ...]) -> None:
    array = synthetic_inputs((spec("x", *declared, datatype=datatype),), rows=3, seed=0)["x"]
    assert (array.dtype, array.shape) == (DTYPES[datatype], made)


def test_inputs_are_the_same_for_the_same_seed() -> None:
    one, same, other = (synthetic_inputs((spec("x", -1, 4),), 2, seed)["x"].tolist() for seed in (1, 1, 2))
    assert one == same != other


def slow(monkeypatch: pytest.MonkeyPatch, run_s: float) -> AddingSession:
    """A session whose runs take so long by the clock."""
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)

    def take(inputs: object) -> None:
        clock.now_s += run_s

    return AddingSession(trouble=take)


class Mixing(AddingSession):
    """Adds the mean over the batch to every row: its rows are not independent."""

    def run(self, inputs: object, outputs: object) -> list[np.ndarray]:
        (y,) = super().run(inputs, outputs)  # type: ignore[arg-type]
        return [y + y.mean(axis=0)]


class Failing(AddingSession):
    def run(self, inputs: object, outputs: object) -> list[np.ndarray]:
        raise InternalError("no made-up inputs, please")


FIXED: tuple[TensorSpec, ...] = (spec("a", 1, 2), spec("b", 1, 2))


@pytest.mark.parametrize(
    ("session", "independent"),
    [
        (AddingSession(), True),
        (Mixing(), False),
        (Failing(), False),
        (AddingSession(inputs=FIXED), False),
        (AddingSession(outputs=(spec("y"),)), False),
        (AddingSession(inputs=()), False),
    ],
    ids=["adds", "mixes rows", "fails", "fixed axis", "scalar output", "no inputs"],
)
def test_batching_is_proven_before_it_is_used(session: Session, independent: bool) -> None:
    assert rows_are_independent(session) is independent


def test_the_first_profile_is_measured_on_the_second_run() -> None:
    session = AddingSession()
    predicted = measured(session).predict_us(1)
    assert session.runs == [1, 1]
    assert predicted is not None
    assert predicted > 0


@pytest.mark.parametrize(("run_s", "runs"), [(0.02, 5), (0.04, 3), (2.0, 1)])
def test_the_longer_a_run_takes_the_fewer_are_made_to_find_the_quickest(
    monkeypatch: pytest.MonkeyPatch, run_s: float, runs: int
) -> None:
    session = slow(monkeypatch, run_s)
    assert quickest_us(session) == pytest.approx(run_s * 1e6)
    assert len(session.runs) == runs


@pytest.mark.parametrize(("run_s", "runs"), [(0.02, 2), (2.0, 1)])
def test_a_run_that_takes_long_is_made_once_before_the_model_is_ready(
    monkeypatch: pytest.MonkeyPatch, run_s: float, runs: int
) -> None:
    session = slow(monkeypatch, run_s)
    assert measured(session).predict_us(1) == pytest.approx(run_s * 1e6)
    assert len(session.runs) == runs


def test_a_model_that_refuses_made_up_inputs_has_no_profile() -> None:
    assert measured(Failing()).predict_us(1) is None


@pytest.mark.parametrize("batched", [True, False])
def test_a_run_is_timed_as_that_of_many_requests_if_they_may_be_joined_and_else_as_that_of_one(batched: bool) -> None:
    requests: list[int] = []
    session = AddingSession(trouble=lambda inputs: requests.append(4 // len(np.unique(inputs["a"], axis=0))))
    assert timed_us(session, 4, batched=batched) > 0
    assert (session.runs, requests) == ([4], [4 if batched else 1])
