from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.core.errors import FailedPrecondition, InternalError, Overloaded, ServingError
from turnout_server.devices.sessions import Session
from turnout_server.models.verification import (
    GOLDEN,
    MAX_GOLDEN_BYTES,
    Parity,
    Verifiable,
    VerificationSample,
    golden,
    made_up,
    relative_error,
    verify,
)

from tests.server.fakes import AddingSession, spec

A = np.array([[1, 2]], np.float32)
SUM = [VerificationSample({"a": A, "b": A}, {"y": A + A})]
MADE_UP = [VerificationSample({"a": A, "b": A})]


class Off(AddingSession):
    """Adds, and a bit more."""

    by = 0.1

    def run(self, inputs: object, outputs: object) -> list[np.ndarray]:
        (y,) = super().run(inputs, outputs)  # type: ignore[arg-type]
        return [y + self.by]


class Failing(AddingSession):
    def run(self, inputs: object, outputs: object) -> list[np.ndarray]:
        raise InternalError("no made-up inputs, please")


PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "npu": "VendorExecutionProvider"}


def verified(
    sessions: Mapping[str, Session], known: Sequence[VerificationSample] | None, tolerance: float = 1e-3, **options: bool
) -> dict[str, Parity | ServingError]:
    """The result for sessions on devices of these names."""
    devices = {name: Verifiable(session, PROVIDERS[name.partition(":")[0]]) for name, session in sessions.items()}
    return verify(devices, known, dict.fromkeys(devices, tolerance), **options)


def publish(directory: Path, arrays: dict[str, Any]) -> None:
    np.savez(directory / GOLDEN, **arrays)


def test_a_device_is_held_to_what_was_published_with_the_model() -> None:
    assert verified({"cpu": AddingSession()}, SUM, 1e-3) == {"cpu": Parity(0.0, "golden")}


def test_without_published_outputs_the_others_are_held_to_the_cpu() -> None:
    sessions: dict[str, Session] = {"cuda:0": AddingSession(), "cpu": AddingSession()}
    assert verified(sessions, MADE_UP, 1e-3) == {"cpu": Parity(None), "cuda:0": Parity(0.0, "cpu")}


@pytest.mark.parametrize(("known", "reference"), [(SUM, "golden"), (MADE_UP, "cpu")], ids=["published", "made up"])
def test_57_a_device_that_computes_something_else_is_refused_with_the_numbers(
    known: list[VerificationSample], reference: str
) -> None:
    results = verified({"cpu": AddingSession(), "cuda:0": Off()}, known, 1e-3)
    assert isinstance(results["cpu"], Parity)
    refused = results["cuda:0"]
    assert isinstance(refused, FailedPrecondition)
    assert str(refused).startswith(f"its outputs on device 'cuda:0' differ from those of {reference} by 0.025 of the largest")


def test_a_difference_within_the_tolerance_is_told_and_allowed() -> None:
    parity = verified({"cpu": Off()}, SUM, 0.1)["cpu"]
    assert isinstance(parity, Parity)
    assert parity.error == pytest.approx(0.025)


def test_a_device_without_the_memory_for_a_run_leaves_the_others_alone() -> None:
    def full(inputs: object) -> None:
        raise Overloaded("full")

    found = verified({"cpu": AddingSession(), "cuda:0": AddingSession(trouble=full)}, None)
    assert isinstance(found["cpu"], Parity)
    assert isinstance(found["cuda:0"], Overloaded)


def test_a_reference_without_the_memory_for_a_run_is_replaced_by_the_next() -> None:
    def full(inputs: object) -> None:
        raise Overloaded("full")

    found = verified({"cpu": AddingSession(trouble=full), "cuda:0": AddingSession(), "npu:0": Off()}, None)
    assert isinstance(found["cpu"], Overloaded)
    assert found["cuda:0"] == Parity(None)
    assert "differ from those of cuda:0" in str(found["npu:0"])


def test_a_model_that_refuses_its_own_published_inputs_is_broken() -> None:
    assert isinstance(verified({"cpu": Failing()}, SUM, 1)["cpu"], FailedPrecondition)


def test_published_samples_are_read_by_point(tmp_path: Path) -> None:
    text = np.array([["a", "bc"]])
    publish(tmp_path, {"batch=1/in/a": A, "batch=1/in/t": text, "batch=1/out/y": A, "batch=2/in/a": A})
    one, two = golden(tmp_path) or [MADE_UP[0]] * 2
    assert one.inputs["t"].dtype == np.object_
    assert one.inputs["t"].tolist() == [["a", "bc"]]
    assert one.outputs is not None
    assert one.outputs["y"].tolist() == A.tolist()
    assert list(two.inputs) == ["a"]


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert golden(tmp_path) is None


def test_synthetic_samples_come_in_several_styles_and_two_of_them_have_the_same_shapes() -> None:
    for made in made_up(AddingSession()):
        assert [(len(sample.inputs["a"]), sample.outputs) for sample in made] == [(1, None), (2, None), (2, None)]
        assert not np.array_equal(made[1].inputs["a"], made[2].inputs["a"])


class Forgetful(AddingSession):
    """A session that keeps the inputs of the first run of each shape."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Mapping[str, np.ndarray]] = {}

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        return super().run(self.kept.setdefault(len(inputs["a"]), inputs), outputs)


def test_a_device_that_answers_from_earlier_inputs_is_found_out() -> None:
    result = verified({"cpu": AddingSession(), "cuda:0": Forgetful()}, None)["cuda:0"]
    assert isinstance(result, FailedPrecondition)


class Choosy(AddingSession):
    """A session whose second input is a size, and only 1 is one."""

    inputs = (spec("a", -1, 2), spec("b", -1, 2, datatype="INT64"))

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        if (inputs["b"] != 1).any():
            raise InternalError("sizes must be 1")
        return [inputs["a"] + 1 for _ in outputs]


class Wrong(Choosy):
    """The same with another result."""

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        return [y[:, :1] for y in super().run(inputs, outputs)]


def test_inputs_that_the_reference_does_not_run_are_replaced_by_better_ones() -> None:
    assert verified({"cpu": Choosy(Choosy.inputs), "cuda:0": Choosy(Choosy.inputs)}, None)["cuda:0"] == Parity(0.0, "cpu")
    wrong = verified({"cpu": Choosy(Choosy.inputs), "cuda:0": Wrong(Choosy.inputs)}, None)["cuda:0"]
    assert str(wrong) == "its output 'y' on device 'cuda:0' has the shape [1, 1], and that of cpu has [1, 2]"


@pytest.mark.parametrize("known", [None, MADE_UP], ids=["synthetic", "published without outputs"])
def test_where_nothing_can_be_compared_another_provider_is_not_used_unless_allowed(
    known: list[VerificationSample] | None,
) -> None:
    sessions = {"cpu": Failing(), "cpu:b": Failing(), "cuda:0": AddingSession()}
    found = verified(sessions, known)
    assert (found["cpu"], found["cpu:b"]) == (Parity(None), Parity(None))
    assert str(found["cuda:0"]).startswith("unverified: 'cpu' runs none of the inputs that were tried")
    assert verified(sessions, known, unverified=True)["cuda:0"] == Parity(None)


def test_the_only_provider_is_its_own_reference() -> None:
    assert verified({"cuda:0": Failing(), "cuda:1": Failing()}, None) == {"cuda:0": Parity(None), "cuda:1": Parity(None)}


def test_an_output_of_another_datatype_than_declared_is_refused() -> None:
    class Halves(AddingSession):
        def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
            return [y.astype(np.float16) for y in super().run(inputs, outputs)]

    found = verified({"cpu": AddingSession(), "cuda:0": Halves()}, None)["cuda:0"]
    assert "is declared FP32, and came as float16" in str(found)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut short"])
def test_a_broken_file_is_a_failed_precondition(tmp_path: Path, content: bytes) -> None:
    (tmp_path / GOLDEN).write_bytes(content)
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        golden(tmp_path)


def test_a_pickle_in_the_file_is_never_opened(tmp_path: Path) -> None:
    publish(tmp_path, {"p/in/a": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        golden(tmp_path)


@given(st.lists(st.floats(-999, 999, width=32), min_size=1, max_size=8), st.floats(0, 1e3, width=32))
def test_the_error_is_a_share_of_the_largest_value(values: list[float], by: float) -> None:
    want = np.array(values, np.float64)
    scale = float(np.max(np.abs(want))) or 1.0
    assert relative_error(want, want) == 0
    assert relative_error(want + by, want) == pytest.approx(by / scale, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("got", "want", "error"),
    [
        (np.array([1.0, np.nan, np.inf]), np.array([1.0, np.nan, np.inf]), 0),
        (np.zeros((2, 1)), np.zeros((1, 2)), float("inf")),
        (np.array(["a"], object), np.array(["b"], object), float("inf")),
        (np.array([True]), np.array([True]), 0),
        (np.zeros(0), np.zeros(0), 0),
        (np.array([0.5]), np.array([0.0]), 0.5),
    ],
    ids=["nan and inf", "other shape", "other text", "bool", "empty", "zero"],
)
def test_the_error_of_what_has_no_scale(got: np.ndarray, want: np.ndarray, error: float) -> None:
    assert relative_error(got, want) == error


@pytest.mark.parametrize("fill", [-1e9, 1e4, -np.finfo(np.float32).max])
@pytest.mark.parametrize("masked", [1, 6])
def test_a_masks_fill_value_hides_no_error_of_the_other_values(fill: float, masked: int) -> None:
    want = np.array([0.5, 1.0, -2.0, 0.0] + [fill] * masked, np.float32)
    got = want.copy()
    got[0] = 0.6
    assert relative_error(got, want) == pytest.approx(0.05)
    got[0], got[4] = 0.5, fill * 0.98
    assert relative_error(got, want) == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("ordinary", [[0.0, 0.0, 0.0, 5000.0], [0.001, 4000.0, 7000.0], [1e-9, 1e-7, 1e-5, 0.9]])
def test_ordinary_values_are_judged_against_the_largest_one(ordinary: list[float]) -> None:
    want = np.array(ordinary, np.float32)
    assert relative_error(want + np.float32(0.25 * want[-1]), want) == pytest.approx(0.25, rel=1e-3)


def test_integers_are_judged_against_the_largest_one() -> None:
    assert relative_error(np.array([1, 2, 4, 10**4]), np.array([1, 2, 3, 10**4])) == 1e-4


def test_a_golden_file_that_inflates_to_much_more_than_it_has_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "golden.npz", **{"a/in/x": np.zeros(MAX_GOLDEN_BYTES, np.uint8)})  # type: ignore[arg-type]  # names of arrays
    assert (tmp_path / "golden.npz").stat().st_size < MAX_GOLDEN_BYTES // 100
    with pytest.raises(FailedPrecondition, match=rf"golden.npz has \d+ bytes once inflated, and may have {MAX_GOLDEN_BYTES}"):
        golden(tmp_path)
