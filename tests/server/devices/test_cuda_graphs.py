"""Buckets on the CPU, where the number of a graph has no effect: everything about them but CUDA itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from turnout_server.core.errors import FailedPrecondition, InvalidRequest, Overloaded
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices import cuda_graphs as bindings
from turnout_server.devices import device as devices
from turnout_server.devices.cuda_graphs import Bucket, GraphSession
from turnout_server.devices.discovery import MAX_GPUS
from turnout_server.devices.process_engine import ProcessEngine
from turnout_server.devices.sessions import OnnxSession

from tests import models

DEVICE = replace(devices.cpu(), name="cpu:graphs", threads=1, isolated=True, graph_rows=(2, 8))
#: The names of the two outputs of `models.add_sub`, the other way round.
OUTPUTS = ["OUTPUT1", "OUTPUT0"]


def saved(root: Path, model: onnx.ModelProto) -> Path:
    models.save(root, "m", model)
    return root / "m/1/model.onnx"


def bound(root: Path, model: onnx.ModelProto) -> GraphSession:
    """A session of this model, with its buckets."""
    session = GraphSession(saved(root, model), DEVICE, RuntimeOptions())
    assert session.bind() == session.graphs
    return session


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each bucket that runs from now on."""
    seen: list[int] = []
    real = Bucket.run

    def run(self: Bucket, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        seen.append(self.rows)
        return real(self, inputs, outputs)

    monkeypatch.setattr(Bucket, "run", run)
    return seen


def pair(rows: int, start: float = 0.0) -> dict[str, np.ndarray]:
    a = np.arange(rows * 16, dtype=np.float32).reshape(rows, 16) + start
    return {"INPUT0": a, "INPUT1": a * 2}


def test_a_run_goes_into_the_smallest_bucket_that_it_fits_and_gets_its_own_rows_back(tmp_path: Path, ran: list[int]) -> None:
    session = bound(tmp_path, models.add_sub())
    assert session.graphs == {2: "", 8: ""}
    ran.clear()
    for rows in (1, 2, 3, 8, 9, 5, 1):
        inputs = pair(rows, start=rows)
        difference, total = session.run(inputs, OUTPUTS)
        np.testing.assert_array_equal(total, inputs["INPUT0"] * 3)
        np.testing.assert_array_equal(difference, -inputs["INPUT0"])
    assert ran == [2, 2, 8, 8, 8, 2]  # nine rows fit none


def test_answers_stay_as_they_are_when_the_next_run_writes_to_the_same_buffers(tmp_path: Path) -> None:
    session = bound(tmp_path, models.add_sub())
    (first,) = session.run(pair(2), ["OUTPUT0"])
    session.run(pair(2, start=100), ["OUTPUT0"])
    np.testing.assert_array_equal(first, pair(2)["INPUT0"] * 3)


def test_what_the_model_does_not_take_is_refused_as_by_a_plain_run(tmp_path: Path, ran: list[int]) -> None:
    session = bound(tmp_path, models.add_sub())
    ran.clear()
    for broken in ({"INPUT0": pair(2)["INPUT0"][:, :1]}, {"INPUT0": np.float32(1)}):
        with pytest.raises(InvalidRequest):
            session.run({**pair(2), **{name: np.asarray(array) for name, array in broken.items()}}, OUTPUTS)
    assert ran == []


def test_a_model_whose_shapes_are_not_known_from_its_rows_runs_plainly(tmp_path: Path, ran: list[int]) -> None:
    session = bound(tmp_path, models.add_constant(1))
    why = "'x' has the shape [-1, -1], and only the first axis may be free"
    assert session.graphs == {2: why, 8: why}
    assert session.run({"x": np.ones((2, 3), np.float32)}, ["y"])[0].tolist() == [[2, 2, 2]] * 2
    assert ran == []


def test_text_and_bfloat16_run_plainly(tmp_path: Path) -> None:
    for datatype in ("BYTES", "BF16"):
        session = bound(tmp_path / datatype, models.identity(datatype, ("batch", 2)))
        assert session.graphs == dict.fromkeys((2, 8), f"'INPUT' is {datatype}, which cannot be bound from numpy")


class Stale:
    """ONNX Runtime's session, except that what is bound is only read once: as if its graph read other addresses."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._bound: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        if id(binding) not in self._bound:
            self._bound.add(id(binding))
            self._real.run_with_iobinding(binding, options)


def test_a_bucket_that_goes_on_answering_what_it_read_first_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxSession, "runtime", property(lambda self: Stale(self._session)))
    session = bound(tmp_path, models.add_sub())
    assert session.graphs[8] == "its answers for 8 rows, after 1 runs before, are not those of a plain run"
    np.testing.assert_array_equal(session.run(pair(2), ["OUTPUT0"])[0], pair(2)["INPUT0"] * 3)


def test_a_model_in_which_the_rows_that_fill_up_change_the_others_runs_plainly(tmp_path: Path, ran: list[int]) -> None:
    what = (TensorProto.FLOAT, ("batch", 4))
    mean = helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1)
    nodes = [mean, helper.make_node("Sub", ["x", "mean"], ["y"])]
    session = bound(tmp_path, models.model(nodes, {"x": what}, {"y": what}, {"axes": np.array([0])}))
    assert session.graphs[8] == "its answers for 4 rows, after 2 runs before, are not those of a plain run"
    ran.clear()
    rows = np.array([[0, 0, 0, 0], [2, 2, 2, 2]], np.float32)
    assert session.run({"x": rows}, ["y"])[0].tolist() == [[-1] * 4, [1] * 4]
    assert ran == []


def test_nothing_is_shown_by_a_model_that_answers_the_same_to_everything(tmp_path: Path) -> None:
    what = (TensorProto.FLOAT, ("batch", 4))
    constants = {"zero": np.array(0, np.float32)}
    session = bound(
        tmp_path, models.model([helper.make_node("Mul", ["x", "zero"], ["y"])], {"x": what}, {"y": what}, constants)
    )
    assert session.graphs[2] == "other numbers give the same answers, so nothing was shown"


def test_whole_numbers_differ_too_and_are_zero_or_one(tmp_path: Path) -> None:
    assert bound(tmp_path, models.gather()).graphs == {2: "", 8: ""}


def test_a_bucket_that_cannot_be_made_leaves_a_new_session_that_runs_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[int, ...]] = []

    class Noted(OnnxSession):
        def __init__(self, path: Path, device: devices.Device, options: RuntimeOptions) -> None:
            opened.append(device.graph_rows)
            super().__init__(path, device, options)

    def run(*arguments: Any) -> None:
        raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(bindings, "OnnxSession", Noted)
    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", run)
    session = bound(tmp_path, models.add_sub())
    assert session.graphs == dict.fromkeys((2, 8), "CUDA failure 900: operation not permitted when stream is capturing")
    assert opened == [(2, 8), ()]
    np.testing.assert_array_equal(session.run(pair(2), ["OUTPUT0"])[0], pair(2)["INPUT0"] * 3)


def test_a_model_that_onnx_runtime_has_no_graphs_for_is_opened_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "This session cannot use the graph capture feature as the model has control flow nodes"

    class Refusing(OnnxSession):
        def __init__(self, path: Path, device: devices.Device, options: RuntimeOptions) -> None:
            if device.graph_rows:
                raise FailedPrecondition(why)
            super().__init__(path, device, options)

    monkeypatch.setattr(bindings, "OnnxSession", Refusing)
    session = bound(tmp_path, models.add_sub())
    assert session.graphs == dict.fromkeys((2, 8), why)
    np.testing.assert_array_equal(session.run(pair(2), ["OUTPUT0"])[0], pair(2)["INPUT0"] * 3)


def test_a_bucket_that_runs_out_of_memory_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = bound(tmp_path, models.add_sub())

    def run(*arguments: Any) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 17179869184")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", run)
    with pytest.raises(Overloaded, match="does not fit into the memory of device 'cpu:graphs'"):
        session.run(pair(2), OUTPUTS)


def test_the_process_of_a_device_records_in_its_lane_and_again_when_it_is_replaced(tmp_path: Path) -> None:
    engine = ProcessEngine(DEVICE)
    try:
        session = engine.open(saved(tmp_path, models.add_sub()), RuntimeOptions())
        assert session.graphs == {2: "", 8: ""}
        np.testing.assert_array_equal(session.run(pair(3), ["OUTPUT0"])[0], pair(3)["INPUT0"] * 3)
        session.graphs = {}
        session.reopen_in(engine.process())
        assert session.graphs == {2: "", 8: ""}
    finally:
        engine.stop()


def test_what_a_gpu_is_told_records_graphs_and_keeps_plain_runs_out_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, str]] = []

    class Gpu(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(
            self, model: str, options: Any, providers: list[tuple[str, dict[str, str]]], enable_fallback: bool
        ) -> None:
            told.append(providers[0][1])
            super().__init__(model, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Gpu)
    monkeypatch.setattr("turnout_server.devices.sessions.built_in_providers", lambda: ("CUDAExecutionProvider",))
    monkeypatch.setattr("turnout_server.devices.sessions._preload_cuda", lambda: None)
    gpu = replace(devices.cuda(MAX_GPUS - 1), graph_rows=(4,))  # which no machine has
    session = GraphSession(saved(tmp_path, models.add_sub()), gpu, RuntimeOptions())
    assert told[0]["enable_cuda_graph"] == "1"
    assert session._session._options is not None
    assert session._session._options.get_run_config_entry("gpu_graph_id") == "-1"
    assert session.bind()[4] != ""  # and so no memory of
    assert "enable_cuda_graph" not in told[1]
