import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_proto import inference_pb2 as pb
from turnout_server.core.datatypes import DATATYPES
from turnout_server.core.errors import InvalidRequest
from turnout_server.wire.allowance import Allowance
from turnout_server.wire.responses import join
from turnout_server.wire.tensors import from_raw, from_typed, to_raw

from tests.wire import CONTENTS, assert_same, pack

Tensor = pb.ModelInferRequest.InferInputTensor
#: More than any test's tensors take.
ROOM = Allowance(2**40)
SHAPES = st.lists(st.integers(0, 4), max_size=3)


@st.composite
def arrays(draw: st.DrawFn, names: list[str]) -> np.ndarray:
    """Arrays of any datatype and bit pattern; BYTES are `str` objects, as in the server."""
    datatype = DATATYPES[draw(st.sampled_from(names))]
    shape = draw(SHAPES)
    size = int(np.prod(shape, dtype=int))
    if datatype.name == "BYTES":
        cells = np.empty(size, np.object_)
        cells[:] = draw(st.lists(st.text(max_size=5), min_size=size, max_size=size))
    elif datatype.name == "BOOL":
        cells = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), np.bool_)
    else:
        length = size * datatype.itemsize
        cells = np.frombuffer(draw(st.binary(min_size=length, max_size=length)), datatype.dtype)
    return cells.reshape(shape)


def tensor(array: np.ndarray) -> tuple[Tensor, bytes]:
    """What a client sends for an array: the tensor's description and its raw bytes."""
    datatype = next(d for d in DATATYPES.values() if d.dtype == array.dtype)
    if datatype.name == "BYTES":
        encoded = np.empty(array.size, np.object_)
        encoded[:] = [text.encode() for text in array.flat]
        array = encoded.reshape(array.shape)
    return Tensor(name="x", datatype=datatype.name, shape=array.shape), pack(array)


@given(arrays(sorted(DATATYPES)))
def test_raw_tensors_round_trip(array: np.ndarray) -> None:
    message, data = tensor(array)
    got = from_raw(message, data, "m", ROOM)
    assert_same(got, array)
    assert join([to_raw(got)]) == data


@given(arrays(sorted(DATATYPES)), st.integers(0, 8))
def test_data_at_any_offset_is_read(array: np.ndarray, offset: int) -> None:
    message, data = tensor(array)
    got = from_raw(message, memoryview(bytes(offset) + data)[offset:], "m", ROOM)
    assert_same(got, array)


@given(arrays(sorted(CONTENTS)))
def test_typed_tensors_become_the_original_array(array: np.ndarray) -> None:
    message, _ = tensor(array)
    message.contents.SetInParent()
    values = [text.encode() for text in array.flat] if message.datatype == "BYTES" else array.ravel().tolist()
    getattr(message.contents, CONTENTS[message.datatype]).extend(values)
    got = from_typed(message, [message.contents.SerializeToString()], "m", ROOM)
    if array.dtype.kind == "f":
        np.testing.assert_array_equal(got, array)  # a NaN's payload may change on the way through a Python float
    else:
        assert_same(got, array)


@given(
    datatype=st.one_of(st.sampled_from(sorted(DATATYPES)), st.text(max_size=5)),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 4), max_size=20),
    data=st.binary(max_size=64),
)
def test_any_bytes_become_an_array_or_an_invalid_request(datatype: str, shape: list[int], data: bytes) -> None:
    message = Tensor(name="x", datatype=datatype, shape=shape)
    try:
        array = from_raw(message, data, "m", ROOM)
    except InvalidRequest as error:
        refusal: InvalidRequest | None = error
    else:
        refusal = None
        assert list(array.shape) == shape
    assert refusal is None or "'x'" in str(refusal)


@given(
    datatype=st.sampled_from(sorted(CONTENTS)),
    field=st.sampled_from(["int_contents", "int64_contents"]),
    values=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
)
def test_typed_integers_are_kept_or_refused_but_never_wrap_around(datatype: str, field: str, values: list[int]) -> None:
    message = Tensor(name="x", datatype=datatype, shape=[len(values)])
    message.contents.SetInParent()
    getattr(message.contents, field).extend(values)
    try:
        array = from_typed(message, [message.contents.SerializeToString()], "m", ROOM)
    except InvalidRequest:
        return
    assert array.tolist() == values


@given(arrays(sorted(set(DATATYPES) - {"BYTES"})), st.integers(1, 9))
def test_extra_bytes_are_refused_with_both_sizes(array: np.ndarray, extra: int) -> None:
    message, data = tensor(array)
    with pytest.raises(InvalidRequest, match=rf"Expected {len(data)}, got {len(data) + extra}"):
        from_raw(message, data + bytes(extra), "m", ROOM)


@pytest.mark.parametrize("value", [b"bytes", "text", 7])
def test_text_outputs_may_contain_bytes_strings_and_other_objects(value: object) -> None:
    array = np.empty(1, np.object_)
    array[0] = value
    text = value if isinstance(value, bytes) else str(value).encode()
    assert join([to_raw(array)]) == len(text).to_bytes(4, "little") + text
