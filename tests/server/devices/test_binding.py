"""Bound runs: read and written in place, whatever the datatype, and what happens where that isn't possible."""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from turnout_server.core.errors import InvalidRequest
from turnout_server.devices import device as devices
from turnout_server.devices.binding import BoundRun
from turnout_server.devices.memory_layouts import MemoryLayout, layout_of
from turnout_server.devices.sessions import OnnxSession
from turnout_server.devices.tensor_memory import TensorMemory

from tests import models
from tests.wire import DTYPES


class Bound:
    """A model whose input and outputs lie in memory of this process."""

    def __init__(self, root: Path, model: onnx.ModelProto) -> None:
        models.save(root, "m", model)
        self.session = OnnxSession(root / "m/1/model.onnx", devices.cpu())
        self.memory = TensorMemory()

    def run(self, array: np.ndarray, rows: int | None) -> tuple[MemoryLayout, dict[str, np.ndarray]]:
        (given,) = self.session.inputs
        layout = layout_of({given.name: array.shape}, self.session.inputs, self.session.outputs, rows)
        self.memory.reserve(layout.size)
        self.memory.view(layout.inputs[0])[...] = array
        return layout, BoundRun(self.session, layout, self.memory)()


@pytest.fixture
def bound(tmp_path: Path) -> Callable[[onnx.ModelProto], Bound]:
    return lambda model: Bound(tmp_path, model)


@pytest.mark.parametrize("datatype", sorted(set(DTYPES) - {"BYTES"}))
def test_numbers_of_every_datatype_are_written_in_place(datatype: str, bound: Callable[[onnx.ModelProto], Bound]) -> None:
    made = bound(models.identity(datatype, ("batch", 3)))
    array = np.arange(6).reshape(2, 3).astype(DTYPES[datatype])
    layout, others = made.run(array, 2)
    assert others == {}
    assert made.memory.view(layout.placed[0]).tolist() == array.tolist()


def test_an_output_whose_shape_is_not_known_is_returned(bound: Callable[[onnx.ModelProto], Bound]) -> None:
    _, others = bound(models.identity("BF16", ("batch", "n"))).run(np.ones((2, 3), ml_dtypes.bfloat16), 2)
    assert (others["OUTPUT"].dtype, others["OUTPUT"].tolist()) == (ml_dtypes.bfloat16, [[1, 1, 1]] * 2)


def test_an_output_that_has_not_the_rows_that_it_should_have_is_returned_then_and_later(
    bound: Callable[[onnx.ModelProto], Bound],
) -> None:
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
    what = (TensorProto.FLOAT, ("batch", 2))
    made = bound(models.model([node], {"x": what}, {"y": (TensorProto.FLOAT, ("batch", 2))}))
    layout, others = made.run(np.ones((3, 2), np.float32), 3)
    assert others["y"].shape == (6, 2)
    again = BoundRun(made.session, layout, made.memory)
    assert [again()["y"].shape for _ in range(2)] == [(6, 2)] * 2


def test_inputs_that_the_model_refuses_are_an_invalid_request(bound: Callable[[onnx.ModelProto], Bound]) -> None:
    with pytest.raises(InvalidRequest, match="refused these inputs"):
        bound(models.gather()).run(np.array([99]), 1)


def test_outputs_that_are_returned_are_not_kept(bound: Callable[[onnx.ModelProto], Bound]) -> None:
    made = bound(models.identity("FP32", ("batch", "n")))
    layout, _ = made.run(np.ones((2, 3), np.float32), 2)
    run = BoundRun(made.session, layout, made.memory)
    run()
    assert run._binding is None


def test_a_provider_that_copies_inputs_when_they_are_bound_reads_those_of_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnxruntime.IOBinding.bind_input
    copies: dict[str, np.ndarray] = {}

    def bind_input(self: Any, name: str, device: str, number: int, dtype: type, shape: Sequence[int], address: int) -> None:
        source = (ctypes.c_char * (math.prod(shape) * np.dtype(dtype).itemsize)).from_address(address)
        copies[name] = np.frombuffer(bytes(source), dtype)
        real(self, name, device, number, dtype, shape, copies[name].ctypes.data)

    monkeypatch.setattr(onnxruntime.IOBinding, "bind_input", bind_input)
    made = Bound(tmp_path, models.add_sub())
    made.session.device = replace(devices.cpu(), provider="CUDAExecutionProvider")
    shapes = {spec.name: (2, 16) for spec in made.session.inputs}
    layout = layout_of(shapes, made.session.inputs, made.session.outputs, 2)
    made.memory.reserve(layout.size)
    run = BoundRun(made.session, layout, made.memory)
    for number in range(4):
        for placed in layout.inputs:
            made.memory.view(placed)[...] = number
        assert run() == {}
        assert (made.memory.view(layout.placed[0]) == 2 * number).all()
