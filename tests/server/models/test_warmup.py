from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from turnout_server.core.errors import FailedPrecondition, InternalError
from turnout_server.core.model_config import Warmup, WarmupInput
from turnout_server.core.signatures import Signature, TensorSpec
from turnout_server.devices.sessions import Session
from turnout_server.devices.synthetic import synthetic_inputs
from turnout_server.models.warmup import measured, quickest_us, rows_are_independent, run_configured, timed_us

from tests.server.fakes import AddingSession, Clock, spec
from tests.wire import DTYPES, pack


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


class Masked(Mixing):
    """Mixes rows, and masks one of two columns."""

    fill = -1e9

    def run(self, inputs: object, outputs: object) -> list[np.ndarray]:
        (y,) = super().run(inputs, outputs)
        return [np.where([True, False], np.float32(self.fill), y)]


class MaskedByInfinity(Masked):
    fill = -np.inf


class Failing(AddingSession):
    def run(self, inputs: object, outputs: object) -> list[np.ndarray]:
        raise InternalError("no made-up inputs, please")


FIXED: tuple[TensorSpec, ...] = (spec("a", 1, 2), spec("b", 1, 2))


@pytest.mark.parametrize(
    ("session", "independent"),
    [
        (AddingSession(), True),
        (Mixing(), False),
        (Masked(), False),
        (MaskedByInfinity(), False),
        (Failing(), False),
        (AddingSession(inputs=FIXED), False),
        (AddingSession(outputs=(spec("y"),)), False),
        (AddingSession(inputs=()), False),
    ],
    ids=["adds", "mixes rows", "and masks", "by infinity", "fails", "fixed axis", "scalar output", "no inputs"],
)
def test_batching_is_proven_before_it_is_used(session: Session, independent: bool) -> None:
    assert rows_are_independent(session) is independent


class OnlyPublished(AddingSession):
    """A session that runs nothing but whole multiples of 3, as inputs that were published are."""

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        if np.any(inputs["a"] % 3):
            raise InternalError("made-up inputs don't run")
        return super().run(inputs, outputs)


class MixingPublished(OnlyPublished):
    """The same, and its rows depend on each other."""

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        (y,) = super().run(inputs, outputs)
        return [y - y.mean(axis=0)]


def published(rows: int) -> dict[str, np.ndarray]:
    """Inputs of an AddingSession, each row another multiple of 3."""
    return {name: np.arange(rows, dtype=np.float32).reshape(rows, 1) * 3 for name in ("a", "b")}


@pytest.mark.parametrize(
    ("session", "rows", "independent"),
    [(OnlyPublished(), 2, True), (OnlyPublished(), 1, False), (MixingPublished(), 2, False), (MixingPublished(), 8, False)],
)
def test_published_inputs_prove_what_made_up_ones_cannot(session: Session, rows: int, independent: bool) -> None:
    assert rows_are_independent(session, example=published(rows)) is independent


def test_published_inputs_prove_nothing_against_made_up_ones() -> None:
    assert rows_are_independent(Mixing(), example=published(2)) is False


def test_the_first_profile_is_measured_on_published_inputs() -> None:
    assert measured(OnlyPublished()).predict_us(1) is None
    assert measured(OnlyPublished(), published(2)).predict_us(1) is not None


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


class Recording(AddingSession):
    """A session of one input, `x`, that keeps what it runs."""

    def __init__(self, x: TensorSpec) -> None:
        super().__init__(inputs=(x,))
        self.ran: list[np.ndarray] = []

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        self.ran.append(inputs["x"])
        return []


def warm_up(x: TensorSpec, max_batch_size: int, rows: int, source: str | Path, *dims: int, count: int = 1) -> list[np.ndarray]:
    """What a warm-up of the input `x` ran."""
    session = Recording(x)
    signature = Signature(session.inputs, session.outputs, max_batch_size)
    warmups = (Warmup(rows, count, {"x": WarmupInput(dims, x.datatype.config, source)}),)
    run_configured("m", session, signature, warmups)
    return session.ran


@pytest.mark.parametrize("datatype", DTYPES)
@pytest.mark.parametrize("source", ["zero", "random"])
def test_a_warm_up_of_every_datatype_has_a_batch_dimension_only_if_the_model_has_one(datatype: str, source: str) -> None:
    (batched,) = warm_up(spec("x", -1, 4, datatype=datatype), 8, 2, source, 4)
    (plain,) = warm_up(spec("x", 4, datatype=datatype), 0, 1, source, 4)
    assert (batched.shape, plain.shape, batched.dtype) == ((2, 4), (4,), DTYPES[datatype])


@pytest.mark.parametrize("datatype", DTYPES)
def test_the_row_of_a_file_is_sent_as_often_as_the_batch_has_rows(tmp_path: Path, datatype: str) -> None:
    texts = [b"a", "\N{SNOWMAN}".encode(), b""]
    row = np.array(texts, np.object_) if datatype == "BYTES" else np.array([0, 1, 1]).astype(DTYPES[datatype])
    (tmp_path / "row").write_bytes(pack(row))
    wanted = [text.decode() for text in texts] if datatype == "BYTES" else row.tolist()
    (batched,) = warm_up(spec("x", -1, 3, datatype=datatype), 8, 2, tmp_path / "row", 3)
    (plain,) = warm_up(spec("x", 3, datatype=datatype), 0, 1, tmp_path / "row", 3)
    assert batched.tolist() == [wanted, wanted]
    assert plain.tolist() == wanted


def test_numbers_after_the_first_row_of_a_file_are_left_unread(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    (ran,) = warm_up(spec("x", -1, 4), 8, 2, tmp_path / "rows", 4)
    assert ran.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize(("rows", "runs"), [(0, 0), (1, 3)])
def test_a_warm_up_runs_as_often_as_it_says_and_not_at_all_with_a_batch_size_of_0(rows: int, runs: int) -> None:
    assert len(warm_up(spec("x", -1, 2), 8, rows, "zero", 2, count=3)) == runs


@pytest.mark.parametrize(
    ("dims", "source", "rows", "text"),
    [
        ((2**40, 2), "zero", 1, "no request can carry more than"),
        ((2**62, 2**62), "random", 1, "no request can carry more than"),
        ((2**30,), "zero", 4, "no request can carry more than"),
        ((2**62,), "strings", 1, "no request can carry more than"),
        ((4,), "zero", 1, "unexpected shape for input 'x'"),
        ((2,), "zero", 9, "batch-size must be <= 8"),
        ((2,), "short", 1, "'short' has 7 bytes, and dims [2] take 8"),
        ((2,), "missing", 1, "'missing': No such file or directory"),
    ],
)
def test_a_warm_up_that_cannot_be_made_is_refused_with_the_reason(
    tmp_path: Path, dims: tuple[int, ...], source: str, rows: int, text: str
) -> None:
    (tmp_path / "short").write_bytes(bytes(7))
    made = source if source in ("zero", "random") else tmp_path / source
    with pytest.raises(FailedPrecondition, match="model_warmup failed") as caught:
        warm_up(spec("x", -1, 2), 8, rows, made, *dims)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\x01\x00", "has an incomplete string length indicator"),
        (b"\x09\x00\x00\x00abc", "has an incomplete string data"),
        (b"\x01\x00\x00\x00\xff", "is not UTF-8"),
        (b"\x01\x00\x00\x00a", "has 1 texts, and dims [2] hold 2"),
    ],
)
def test_texts_in_a_file_must_be_written_as_on_the_wire(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "texts").write_bytes(content)
    with pytest.raises(FailedPrecondition) as caught:
        warm_up(spec("x", -1, 2, datatype="BYTES"), 8, 1, tmp_path / "texts", 2)
    assert text in str(caught.value)


def test_a_model_without_batches_is_warmed_up_with_one_row_only() -> None:
    with pytest.raises(FailedPrecondition, match="batch_size of 2; with max_batch_size 0 it must be 1"):
        warm_up(spec("x", 2), 0, 2, "zero", 2)
