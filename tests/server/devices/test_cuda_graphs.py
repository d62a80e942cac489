"""Sessions whose runs are replayed; on a CPU, which runs what is bound anew every time, but with the same buffers."""

import ctypes
from collections.abc import Mapping
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
from turnout_server.devices import device as devices
from turnout_server.devices.cuda_graphs import Bucket, GraphSession
from turnout_server.devices.cuda_runtime import FREE_SHARE
from turnout_server.devices.discovery import MAX_GPUS
from turnout_server.devices.process_engine import ProcessEngine
from turnout_server.devices.sessions import OnnxSession

from tests import models

DEVICE = replace(devices.cpu(), name="cpu:graphs", threads=1, isolated=True)
#: The names of the two outputs of `models.add_sub`, the other way round.
OUTPUTS = ["OUTPUT1", "OUTPUT0"]


def saved(root: Path, model: onnx.ModelProto) -> Path:
    models.save(root, "m", model)
    return root / "m/1/model.onnx"


def opened(root: Path, model: onnx.ModelProto, rows: tuple[int, ...] = (2, 8)) -> GraphSession:
    return GraphSession(saved(root, model), DEVICE, RuntimeOptions(), rows)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each bucket that runs from now on."""
    seen: list[int] = []
    real = Bucket.run

    def run(self: Bucket, inputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> None:
        seen.append(self.rows)
        real(self, inputs, targets)

    monkeypatch.setattr(Bucket, "run", run)
    return seen


def pair(rows: int, start: float = 0.0) -> dict[str, np.ndarray]:
    a = np.arange(rows * 16, dtype=np.float32).reshape(rows, 16) + start
    return {"INPUT0": a, "INPUT1": a * 2}


def test_a_run_goes_into_the_smallest_bucket_that_it_fits_and_gets_its_own_rows_back(tmp_path: Path, ran: list[int]) -> None:
    session = opened(tmp_path, models.add_sub())
    assert (session.buckets, session.notes) == ((2, 8), [])
    ran.clear()
    for rows in (1, 2, 3, 8, 9, 5, 1):
        inputs = pair(rows, start=rows)
        difference, total = session.run(inputs, OUTPUTS)
        np.testing.assert_array_equal(total, inputs["INPUT0"] * 3)
        np.testing.assert_array_equal(difference, -inputs["INPUT0"])
    assert ran == [2, 2, 8, 8, 8, 2]  # nine rows fit none


def test_answers_stay_as_they_are_when_the_next_run_writes_to_the_same_buffers(tmp_path: Path) -> None:
    session = opened(tmp_path, models.add_sub())
    (first,) = session.run(pair(2), ["OUTPUT0"])
    session.run(pair(2, start=100), ["OUTPUT0"])
    np.testing.assert_array_equal(first, pair(2)["INPUT0"] * 3)


def test_what_the_model_does_not_take_is_refused_as_by_a_plain_run(tmp_path: Path, ran: list[int]) -> None:
    session = opened(tmp_path, models.add_sub())
    ran.clear()
    for broken in ({"INPUT0": pair(2)["INPUT0"][:, :1]}, {"INPUT0": np.float32(1)}):
        with pytest.raises(InvalidRequest):
            session.run({**pair(2), **{name: np.asarray(array) for name, array in broken.items()}}, OUTPUTS)
    assert ran == []


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (models.add_constant(1), r"'x' has the shape \[-1, -1\], and only the first axis may be free"),
        (models.identity("BYTES", ("batch", 2)), "'INPUT' is BYTES, which cannot be bound from numpy"),
        (models.identity("BF16", ("batch", 2)), "'INPUT' is BF16, which cannot be bound from numpy"),
    ],
    ids=["free axes", "text", "bfloat16"],
)
def test_a_model_whose_buffers_cannot_be_made_beforehand_is_refused_with_the_reason(
    tmp_path: Path, model: onnx.ModelProto, why: str
) -> None:
    with pytest.raises(FailedPrecondition, match=why):
        opened(tmp_path, model)


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


def test_a_bucket_that_keeps_answering_what_it_read_first_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxSession, "runtime", property(lambda self: Stale(self._session)))
    with pytest.raises(FailedPrecondition, match="8 rows: its answers after 1 earlier runs are not those of a plain run"):
        opened(tmp_path, models.add_sub())


def test_nothing_is_shown_by_a_model_that_answers_the_same_to_everything(tmp_path: Path) -> None:
    what = (TensorProto.FLOAT, ("batch", 4))
    constants = {"zero": np.array(0, np.float32)}
    with pytest.raises(FailedPrecondition, match="other inputs give the same answers, so nothing was shown"):
        opened(tmp_path, models.model([helper.make_node("Mul", ["x", "zero"], ["y"])], {"x": what}, {"y": what}, constants))


def test_integers_differ_too_and_are_zero_or_one(tmp_path: Path) -> None:
    assert opened(tmp_path, models.gather()).buckets == (2, 8)


class Capturing:
    """Fails from a size on, as a capture does that finds too little memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, from_rows: int, error: str) -> None:
        self.sessions = 0
        real_init, real_run = OnnxSession.__init__, Bucket.run

        def init(session: OnnxSession, *arguments: Any, **options: Any) -> None:
            self.sessions += 1
            real_init(session, *arguments, **options)

        def run(bucket: Bucket, inputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> None:
            if bucket.rows >= from_rows:
                raise RuntimeError(error)
            real_run(bucket, inputs, targets)

        monkeypatch.setattr(OnnxSession, "__init__", init)
        monkeypatch.setattr(Bucket, "run", run)


def test_a_capture_that_fails_leaves_the_smaller_buckets_in_a_new_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capturing = Capturing(monkeypatch, 8, "CUDA failure 2: out of memory\nand more")
    session = opened(tmp_path, models.add_sub(), (1, 2, 8, 16))
    assert (session.buckets, capturing.sessions) == ((1, 2), 2)
    assert session.notes == ["no CUDA graph for 8 rows: CUDA failure 2: out of memory"]
    np.testing.assert_array_equal(session.run(pair(2), ["OUTPUT0"])[0], pair(2)["INPUT0"] * 3)


def test_a_model_that_cannot_be_captured_at_all_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Capturing(monkeypatch, 1, "CUDA failure 900: operation not permitted when stream is capturing")
    with pytest.raises(FailedPrecondition, match="no CUDA graph for 2 rows: CUDA failure 900"):
        opened(tmp_path, models.add_sub())


class SmallGpu:
    """A GPU whose memory ends after some buckets."""

    def __init__(self, buckets: int) -> None:
        self._left = buckets

    def memory(self) -> tuple[int, int]:
        self._left -= 1
        return (1000 if self._left >= 0 else int(1000 * FREE_SHARE) - 1), 1000

    def copy_to_host(self, target: int, source: int, size: int) -> bool:
        ctypes.memmove(target, source, size)
        return True


def test_no_bucket_takes_the_memory_that_others_may_need(tmp_path: Path) -> None:
    session = GraphSession(saved(tmp_path, models.add_sub()), DEVICE, RuntimeOptions(), (1, 2, 4), SmallGpu(2))
    assert session.buckets == (1, 2)
    assert session.notes == ["no CUDA graph for 4 rows: 0 MiB of GPU memory are left"]


def test_a_bucket_that_runs_out_of_memory_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(tmp_path, models.add_sub())

    def run(*arguments: Any) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 17179869184")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", run)
    with pytest.raises(Overloaded, match="does not fit into the memory of device 'cpu:graphs'"):
        session.run(pair(2), OUTPUTS)


def test_trimming_frees_nothing_because_graphs_need_their_work_memory(tmp_path: Path) -> None:
    session = opened(tmp_path, models.add_sub())
    session.trim()
    np.testing.assert_array_equal(session.run(pair(2), ["OUTPUT0"])[0], pair(2)["INPUT0"] * 3)


def test_the_process_of_a_device_captures_again_when_it_is_replaced(tmp_path: Path) -> None:
    engine = ProcessEngine(DEVICE)
    try:
        session = engine.open(saved(tmp_path, models.add_sub()), RuntimeOptions(), (2, 8), graphs=True)
        assert session.buckets == (2, 8)
        for rows in (3, 9, 1):
            np.testing.assert_array_equal(session.run(pair(rows), ["OUTPUT0"])[0], pair(rows)["INPUT0"] * 3)
        session.buckets = []
        session.reopen_in(engine.process())
        assert list(session.buckets) == [2, 8]
    finally:
        engine.stop()


def test_a_gpu_is_told_to_capture_and_plain_runs_are_kept_out_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    gpu = devices.cuda(MAX_GPUS - 1)  # which no machine has
    path = saved(tmp_path, models.add_sub())
    session = OnnxSession(path, gpu, graphs=True)
    assert told[0]["enable_cuda_graph"] == "1"
    assert session._options is not None
    assert session._options.get_run_config_entry("gpu_graph_id") == "-1"
    OnnxSession(path, gpu)
    assert "enable_cuda_graph" not in told[1]
