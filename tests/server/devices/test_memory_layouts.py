from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.devices.memory_layouts import ALIGNMENT, layout_of

from tests.server.fakes import spec

NUMBERS = st.sampled_from(["BOOL", "INT8", "FP16", "FP32", "INT64", "BF16"])


@given(st.lists(st.tuples(NUMBERS, st.lists(st.integers(0, 5), max_size=2)), max_size=4), st.integers(0, 9))
def test_tensors_lie_one_behind_another_aligned_and_without_overlap(tensors: list[tuple[str, list[int]]], rows: int) -> None:
    inputs = [spec(f"x{n}", -1, *shape, datatype=datatype) for n, (datatype, shape) in enumerate(tensors)]
    outputs = [spec(f"y{n}", -1, *shape, datatype=datatype) for n, (datatype, shape) in enumerate(tensors)]
    layout = layout_of({each.name: (rows, *each.shape[1:]) for each in inputs}, inputs, outputs, rows)
    placed = [*layout.inputs, *layout.placed]
    assert [each.name for each in placed] == [each.name for each in (*inputs, *outputs)]
    for each in placed:
        assert each.offset % ALIGNMENT == 0
        assert each.byte_size == int(np.prod(each.shape)) * np.dtype(each.dtype).itemsize
        assert each.offset + each.byte_size <= layout.size
    assert all(one.offset + one.byte_size <= other.offset for one, other in pairwise(placed))


@pytest.mark.parametrize(
    ("shape", "rows", "known"),
    [((-1, 4), 3, (3, 4)), ((-1, -1), 3, None), ((-1, 4), None, None), ((5, 4), 3, (5, 4)), ((), None, ())],
)
def test_an_output_has_a_place_if_its_shape_follows_from_the_rows(
    shape: tuple[int, ...], rows: int | None, known: tuple[int, ...] | None
) -> None:
    layout = layout_of({"x": (3,)}, [spec("x", -1)], [spec("y", *shape)], rows)
    assert layout.outputs == ("y",)
    assert [placed.shape for placed in layout.placed] == ([] if known is None else [known])


def test_an_output_that_is_text_has_no_place() -> None:
    layout = layout_of({"x": (3,)}, [spec("x", -1)], [spec("y", -1, datatype="BYTES")], 3)
    assert layout.placed == ()
