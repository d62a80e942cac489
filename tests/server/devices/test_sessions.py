"""What ONNX Runtime says, as its callers learn it."""

import ctypes
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper
from turnout_server.core.errors import FailedPrecondition, InternalError, Overloaded
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices import cuda_libraries, sessions
from turnout_server.devices import device as devices
from turnout_server.devices.sessions import OnnxSession

from tests import models

LIMITED = replace(devices.cpu(), threads=1, name="cpu:small", memory_limit_mb=16)
X = {"x": np.ones((1, 2), np.float32)}

NO_MEMORY = [
    RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 17179869184"),
    RuntimeError("bfc_arena.cc:359 Available memory of 1048576 is smaller than requested bytes of 8388608"),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
    RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc"),
    RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"),
    MemoryError(),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    models.save(tmp_path, "m", models.add_constant(1))
    return tmp_path / "m/1/model.onnx"


def _failing(error: Exception) -> Any:
    def call(*arguments: Any, **keywords: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_a_model_that_does_not_fit_is_an_overload_with_the_numbers(
    error: Exception, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", _failing(error))
    with pytest.raises(Overloaded, match=r"0\.0 MiB does not fit .* 'cpu:small', which may take 16 MiB: ") as raised:
        OnnxSession(file, LIMITED)
    assert str(error) in str(raised.value)
    assert str(file.parent) not in str(raised.value)


def zip_map() -> onnx.ModelProto:
    """y = x as a list of dictionaries, as scikit-learn's classifiers end; x is float32 (n, 2)."""
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    value = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    return graph(node, helper.make_sequence_type_proto(value), [helper.make_opsetid("ai.onnx.ml", 1)])


def sequence() -> onnx.ModelProto:
    """y = [x, x]; x is float32 (n, 2)."""
    value = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 2])
    return graph(helper.make_node("SequenceConstruct", ["x", "x"], ["y"]), helper.make_sequence_type_proto(value))


def graph(node: onnx.NodeProto, output: onnx.TypeProto, more: Sequence[onnx.OperatorSetIdProto] = ()) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    made = helper.make_graph([node], "g", [x], [helper.make_value_info("y", output)])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 19), *more], ir_version=9)


@pytest.mark.parametrize(
    ("model", "way_out"),
    [(zip_map(), "it comes from ZipMap: convert the model again with options={'zipmap': False}"), (sequence(), "with tensors")],
    ids=["ZipMap", "sequence"],
)
def test_an_output_that_is_no_tensor_is_refused_with_the_way_out(model: onnx.ModelProto, way_out: str) -> None:
    with pytest.raises(FailedPrecondition, match=r"'y' is a seq\(.*\), which the protocol cannot carry; ") as caught:
        OnnxSession(model.SerializeToString(), devices.cpu())
    assert way_out in str(caught.value)


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_a_request_that_does_not_fit_is_an_overload_with_the_numbers(error: Exception, file: Path) -> None:
    session = OnnxSession(file, LIMITED)
    session._session.run = _failing(error)
    with pytest.raises(Overloaded, match="'cpu:small', which may take 16 MiB: ") as raised:
        session.run(X, ["y"])
    assert str(error) in str(raised.value)


def test_any_other_failure_is_none(file: Path) -> None:
    session = OnnxSession(file, LIMITED)
    session._session.run = _failing(RuntimeError("CUDA failure 700: an illegal memory access"))
    with pytest.raises(InternalError):
        session.run(X, ["y"])


@pytest.mark.parametrize("option", ["enable_cuda_graph", "trt_cuda_graph_enable"])
def test_a_graph_of_every_run_is_refused_and_one_that_is_switched_off_is_not(file: Path, option: str) -> None:
    for value in ("1", "True"):
        with pytest.raises(FailedPrecondition, match=f"'{option}' would give wrong answers.* see the setting cuda_graph_rows"):
            OnnxSession(file, replace(LIMITED, provider_options={option: value}))
    for value in ("0", "False"):
        OnnxSession(file, replace(LIMITED, provider_options={option: value}))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("libcublasLt.so.13: cannot open shared object file", "libcublasLt.so.13: cannot open shared object file"),
        ("/x/libonnxruntime_providers_cuda.so: undefined symbol: Provider_GetHost", "check that the driver and the CUDA 13 "),
        ("", "check that the driver and the CUDA 13 and cuDNN 9 libraries can be loaded"),
    ],
)
def test_a_session_that_fell_back_to_the_cpu_is_none_and_names_the_library_that_is_missing(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, said: str, why: str
) -> None:
    def load(library: str) -> None:
        assert library == str(tmp_path / "capi/libonnxruntime_providers_cuda.so")
        if said:
            raise OSError(said)

    class Cpu(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, *arguments: Any, providers: object, enable_fallback: bool) -> None:
            super().__init__(*arguments, providers=["CPUExecutionProvider"])

    (tmp_path / "capi").mkdir()
    (tmp_path / "capi/libonnxruntime_providers_cuda.so").touch()
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", Cpu)
    monkeypatch.setattr(sessions, "built_in_providers", lambda: ("CUDAExecutionProvider",))
    monkeypatch.setattr(cuda_libraries, "preload", lambda major: ())
    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(FailedPrecondition, match=f"would have used the CPU instead: {re.escape(why)}"):
        OnnxSession(file, devices.cuda(0))


def test_as_many_threads_as_cores_where_their_number_is_left_to_onnx_runtime(file: Path) -> None:
    before, core = set(os.listdir("/proc/self/task")), min(os.sched_getaffinity(0))
    session = OnnxSession(file, replace(devices.cpu(), threads=0, cpus=(core,)))
    assert set(os.listdir("/proc/self/task")) == before  # it would have pinned a thread to each core of the machine
    assert session.run(X, ["y"])[0].tolist() == [[2, 2]]


@pytest.mark.parametrize(
    ("options", "helpers"), [(RuntimeOptions(), 2), (RuntimeOptions(parallel=True, inter_op_threads=3), 4)]
)
def test_the_threads_of_a_device_in_this_process_keep_to_its_cores(file: Path, options: RuntimeOptions, helpers: int) -> None:
    before, usable = set(os.listdir("/proc/self/task")), os.sched_getaffinity(0)
    session = OnnxSession(file, replace(devices.cpu(), threads=3, cpus=(min(usable),)), options)
    helping = set(os.listdir("/proc/self/task")) - before
    assert [os.sched_getaffinity(int(thread)) for thread in helping] == [{min(usable)}] * helpers
    assert os.sched_getaffinity(0) == usable
    assert session.run(X, ["y"])[0].tolist() == [[2, 2]]


def used_mb() -> float:
    return psutil.Process().memory_info().rss / 2**20


@pytest.mark.parametrize("model", [models.add_constant(1), models.identity("BF16", ("rows", 2))], ids=["FP32", "BF16"])
def test_a_session_that_is_trimmed_gives_back_what_a_large_run_took_and_goes_on_as_before(tmp_path: Path, model: Any) -> None:
    models.save(tmp_path, "m", model)
    session = OnnxSession(tmp_path / "m/1/model.onnx", devices.cpu())
    (input_,), (output,) = session.inputs, session.outputs
    large = {input_.name: np.ones((2**25, 2), input_.datatype.dtype)}
    small = {name: array[:1] for name, array in large.items()}
    session.run(small, [output.name])  # what the very first run takes, an arena keeps
    session.run(large, [output.name])
    before_mb = used_mb()

    session.trim()
    session.run(small, [output.name])

    assert used_mb() < before_mb - 100
    for inputs in (large, small):
        assert session.run(inputs, [output.name])[0].shape == next(iter(inputs.values())).shape


def test_a_session_without_an_arena_has_nothing_to_give_back(file: Path) -> None:
    session = OnnxSession(file, LIMITED)
    session.trim()
    assert session.run(X, ["y"])[0].tolist() == [[2, 2]]
