"""Tests that a request read from the cache equals the parsed one, and that other requests are parsed."""

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_proto import inference_pb2 as pb
from turnout_server.core.datatypes import DATATYPES
from turnout_server.core.errors import InvalidRequest, NotFound, ServingError
from turnout_server.core.messages import InferRequest
from turnout_server.wire.codec import Codec, OutputFormats
from turnout_server.wire.decode_cache import LIMIT, LIMIT_ALIKE, LONGEST_HEADER_BYTES, DecodeCache
from turnout_server.wire.shared_memory import DIRECTORY, SharedMemory

from tests.wire import assert_same, request

NUMBERS = sorted(name for name in DATATYPES if name != "BYTES")
#: The longest id whose length takes one byte.
LONGEST_ID = 127

Inputs = dict[str, np.ndarray]


#: The deadline and the arrival of all requests in this module.
DEADLINE_S, ARRIVED_S = 7e9, 1.0


def read(codec: Codec, message: bytes) -> tuple[InferRequest, OutputFormats]:
    return codec.decode(message, {}, DEADLINE_S, ARRIVED_S)


def decoded(message: bytes) -> tuple[InferRequest, OutputFormats]:
    """A message as parsed without a cache."""
    return read(Codec(None), message)


def from_cache(earlier: bytes, message: bytes) -> InferRequest | None:
    """A message as read by a codec that has read `earlier` before; None if the cache doesn't find it."""
    codec = Codec(None)
    read(codec, earlier)
    return read(codec, message)[0] if codec._cache.find(message) is not None else None


def assert_equal(got: InferRequest, want: InferRequest) -> None:
    """Asserts equality, except for the layout's identity and the decoding time."""
    assert list(got.inputs) == list(want.inputs)
    for name, array in want.inputs.items():
        assert_same(got.inputs[name], array)
    for field in ("model", "version", "id", "outputs", "device", "timeout_us", "objective", "precision", "priority"):
        assert getattr(got, field) == getattr(want, field), field
    assert (got.deadline_s, got.arrived_s) == (DEADLINE_S, ARRIVED_S)
    assert got.decode_us > 0
    assert got.layout.batch_key == want.layout.batch_key


# Drawn requests


@st.composite
def layouts(draw: st.DrawFn) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, datatype and shape of each input."""
    names = draw(st.lists(st.text(max_size=5), max_size=3, unique=True))
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    return [(name, draw(st.sampled_from(NUMBERS)), draw(shapes)) for name in names]


@st.composite
def tensors(draw: st.DrawFn, layout: list[tuple[str, str, tuple[int, ...]]]) -> Inputs:
    """Inputs of this layout, with any bit pattern that their datatypes allow."""
    arrays: Inputs = {}
    for name, datatype, shape in layout:
        dtype, size = DATATYPES[datatype].dtype, int(np.prod(shape, dtype=int))
        if datatype == "BOOL":
            arrays[name] = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype).reshape(shape)
        else:
            length = size * dtype.itemsize
            arrays[name] = np.frombuffer(draw(st.binary(min_size=length, max_size=length)), dtype).reshape(shape)
    return arrays


PARAMETERS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "device": st.sampled_from(["cpu", "cuda:0", "cuda,cpu"]),
        "objective": st.sampled_from(["latency", "cost", "energy"]),
        "precision": st.text(min_size=1, max_size=5),
        "priority": st.integers(0, 5),
        "timeout": st.integers(0, 10**9),
        "colour": st.booleans(),
    },
)
IDS = st.text(max_size=30)


@st.composite
def similar_messages(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two requests that differ only in their ids and in their tensors' values."""
    layout = draw(layouts())
    model, version = draw(st.text(min_size=1, max_size=20)), draw(st.sampled_from(["", "1", "12"]))
    outputs = draw(st.lists(st.text(max_size=5), max_size=2, unique=True))
    parameters = draw(PARAMETERS)
    first, second = (
        request(model, draw(tensors(layout)), version=version, id=draw(IDS), outputs=outputs, parameters=parameters)
        for _ in range(2)
    )
    return first.SerializeToString(deterministic=True), second.SerializeToString(deterministic=True)


@given(similar_messages())
def test_a_cached_request_equals_the_parsed_one(messages: tuple[bytes, bytes]) -> None:
    first, second = messages
    got = from_cache(first, second)
    want, _ = decoded(second)
    if got is None:
        assert not want.inputs  # a message that consists of a name only isn't cached
    else:
        assert_equal(got, want)


@given(similar_messages(), st.data())
def test_a_changed_message_is_read_as_without_a_cache(messages: tuple[bytes, bytes], data: st.DataObject) -> None:
    codec = Codec(None)
    read(codec, messages[0])
    changed = bytearray(messages[1])
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    assert_like_a_fresh_codec(codec, bytes(changed))


def assert_like_a_fresh_codec(codec: Codec, message: bytes) -> None:
    got, want = outcome(codec, message), outcome(Codec(None), message)
    if isinstance(got, ServingError) or isinstance(want, ServingError):
        assert (type(got), str(got)) == (type(want), str(want))
    else:
        assert_equal(got[0], want[0])
        assert got[1] == want[1]


def outcome(codec: Codec, message: bytes) -> tuple[InferRequest, OutputFormats] | ServingError:
    try:
        return read(codec, message)
    except ServingError as error:
        return error


# One request, changed at each byte

PAIR: Inputs = {"a": np.arange(4, dtype=np.float32), "b": np.arange(6, dtype=np.int64).reshape(2, 3)}
PLAIN = request("m", PAIR, version="1", id="7", outputs=["y"], parameters={"device": "cpu"})
MESSAGE = PLAIN.SerializeToString()


ID_AT = MESSAGE.index(b"\x1a\x017") + 2
#: The positions of the tensors' bytes.
TENSOR_BYTES_AT = {
    at for data in PLAIN.raw_input_contents for at in range(MESSAGE.index(data), MESSAGE.index(data) + len(data))
}


@pytest.mark.parametrize("at", range(len(MESSAGE)))
def test_every_byte_outside_the_placeholders_must_match(at: int) -> None:
    for other in set(range(256)) - {MESSAGE[at]}:
        changed = MESSAGE[:at] + bytes([other]) + MESSAGE[at + 1 :]
        got = from_cache(MESSAGE, changed)
        in_placeholder = at in TENSOR_BYTES_AT or (at == ID_AT and other < 0x80)  # a single byte from 0x80 isn't UTF-8
        assert (got is not None) == in_placeholder
        if got is not None:
            assert_equal(got, decoded(changed)[0])


@pytest.mark.parametrize("at", range(len(MESSAGE)))
def test_a_truncated_message_is_read_as_without_a_cache(at: int) -> None:
    codec = Codec(None)
    read(codec, MESSAGE)
    assert_like_a_fresh_codec(codec, MESSAGE[:at])
    assert_like_a_fresh_codec(codec, MESSAGE + MESSAGE[:at])


@pytest.mark.parametrize("size", [0, 1, LONGEST_ID])
def test_the_id_may_have_another_length_or_be_missing(size: int) -> None:
    other = pb.ModelInferRequest()
    other.CopyFrom(PLAIN)
    other.id = "x" * size
    longer, shorter = other.SerializeToString(), MESSAGE
    for earlier, message in [(shorter, longer), (longer, shorter)]:
        got = from_cache(earlier, message)
        assert got is not None
        assert_equal(got, decoded(message)[0])


@pytest.mark.parametrize("size", [LONGEST_ID + 1, 300, 20_000])
def test_a_message_with_a_longer_id_is_parsed(size: int) -> None:
    longer = pb.ModelInferRequest()
    longer.CopyFrom(PLAIN)
    longer.id = "x" * size
    assert from_cache(MESSAGE, longer.SerializeToString()) is None
    assert from_cache(longer.SerializeToString(), longer.SerializeToString()) is None


#: Names of outputs that parse as other fields when parsing starts in their middle; `z` is the tag of an unknown field.
FORGED_FROM_LONG_NAME = "a" * 47 + "z" + chr(48) + "b" * 48
FORGED_FROM_LONG_ID = "a" * 9 + "z" + chr(109) + "b" * 109


@pytest.mark.parametrize(
    ("model", "output", "at", "forged"),
    [
        ("x" * 199 + "z", FORGED_FROM_LONG_NAME, 202, b"\x1a\x12\x11" + b"v" * 17),
        ("m", FORGED_FROM_LONG_ID, 3, b"\x1a\x80\x01" + b"x" * 127),
    ],
    ids=["a long name", "a long id"],
)
def test_bytes_within_another_field_are_not_mistaken_for_an_id(model: str, output: str, at: int, forged: bytes) -> None:
    honest = request(model, {}, outputs=[output]).SerializeToString()
    message = honest[:at] + forged + honest[at:]
    assert decoded(message)[0].outputs == () != decoded(honest)[0].outputs
    assert from_cache(honest, message) is None


def test_an_id_that_is_not_utf8_is_parsed_and_refused() -> None:
    changed = MESSAGE.replace(b"\x1a\x017", b"\x1a\x01\xff")
    assert changed != MESSAGE
    assert from_cache(MESSAGE, changed) is None
    codec = Codec(None)
    read(codec, MESSAGE)
    with pytest.raises(InvalidRequest):
        read(codec, changed)


@pytest.mark.parametrize("size", range(1, 17))
def test_arrays_are_views_of_the_message_at_any_alignment(size: int) -> None:
    message = request("m", PAIR, id="x" * size).SerializeToString()
    got = from_cache(message, message)
    assert got is not None
    for name, array in got.inputs.items():
        assert_same(array, PAIR[name])
        assert np.shares_memory(array, np.frombuffer(message, np.uint8))


# Messages that aren't cached, or have an unusual layout


NAME, TAIL = MESSAGE[: ID_AT - 2], MESSAGE[ID_AT + 1 :]
UNUSUAL = {
    "the id is first": b"\x1a\x017" + NAME + TAIL,
    "the id is last": NAME + TAIL + b"\x1a\x017",
    "the id is repeated": NAME + b"\x1a\x018\x1a\x017" + TAIL,
    "the id is repeated at the end": MESSAGE + b"\x1a\x018",
    "the id's length is longer than necessary": NAME + b"\x1a\x81\x007" + TAIL,
    "the name's length is longer than necessary": b"\x0a\x81\x00m" + MESSAGE[3:],
    "an unknown field follows the tensors": MESSAGE + b"\x42\x02xy",
    "an unknown number follows the tensors": MESSAGE + b"\x40\x01",
}


@pytest.mark.parametrize("change", UNUSUAL)
def test_a_message_with_an_unusual_layout_is_parsed(change: str) -> None:
    message = UNUSUAL[change]
    want, _ = decoded(message)
    assert want.model == "m"
    assert from_cache(message, message) is None
    codec = Codec(None)
    read(codec, MESSAGE)
    assert_like_a_fresh_codec(codec, message)


@given(st.sampled_from(sorted(UNUSUAL)), st.data())
def test_messages_after_an_unusual_one_are_read_as_without_a_cache(change: str, data: st.DataObject) -> None:
    codec = Codec(None)
    message = bytearray(UNUSUAL[change])
    read(codec, bytes(message))
    message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    assert_like_a_fresh_codec(codec, bytes(message))


TEXT = np.array([b"one", b"two"], np.object_)


@pytest.mark.parametrize(
    "message",
    [
        request("m", {"x": TEXT}),
        request("m", {"x": TEXT, **PAIR}),
        request("m", PAIR, typed=True),
        request("m", PAIR, outputs=["y" * LONGEST_HEADER_BYTES]),
        request("m", {}),
    ],
    ids=["BYTES", "BYTES beside numbers", "typed", "long header", "only a name"],
)
def test_requests_without_raw_numeric_tensors_or_with_long_headers_are_not_cached(message: pb.ModelInferRequest) -> None:
    data = message.SerializeToString()
    assert from_cache(data, data) is None
    codec = Codec(None)
    for _ in range(2):
        assert_like_a_fresh_codec(codec, data)


def test_a_request_with_too_many_fields_is_parsed() -> None:
    data = request("m", PAIR).SerializeToString() + b"\x40\x01" * 5000
    assert len(decoded(data)[0].inputs) == 2
    assert from_cache(data, data) is None


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_shared_memory_region_is_looked_up_for_each_request(side: str) -> None:
    message = request("m", PAIR if side == "outputs" else {"a": PAIR["a"]}, outputs=["y"])
    if side == "inputs":
        del message.raw_input_contents[:]
    tensor = getattr(message, side)[0]
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.parameters["shared_memory_byte_size"].int64_param = 16
    with shared_memory_of(16) as memory:
        codec = Codec(memory)
        read(codec, message.SerializeToString())
        memory.unregister("r")
        with pytest.raises(NotFound):
            read(codec, message.SerializeToString())


@contextmanager
def shared_memory_of(size: int) -> Iterator[SharedMemory]:
    """Shared memory with one region, `r`, of this size in bytes."""
    path = DIRECTORY / f"turnout-test-{uuid.uuid4().hex}"
    path.write_bytes(bytes(size))
    memory = SharedMemory()
    memory.register("r", path.name, 0, size)
    try:
        yield memory
    finally:
        path.unlink()


# Many messages


def cached(messages: Iterable[bytes]) -> DecodeCache[OutputFormats]:
    """The cache of a codec after it has read these messages."""
    codec = Codec(None)
    for message in messages:
        read(codec, message)
    return codec._cache


def test_the_oldest_message_is_evicted_first() -> None:
    messages = [request(f"m{number:04}", PAIR).SerializeToString() for number in range(LIMIT + 2)]
    cache = cached(messages)
    assert [number for number, message in enumerate(messages) if cache.find(message)] == list(range(2, LIMIT + 2))


def test_requests_of_equal_length_are_kept_up_to_a_limit() -> None:
    messages = [request("m", PAIR, parameters={"device": f"cuda:{number}"}).SerializeToString() for number in range(6)]
    cache = cached(messages)
    devices = [found[0].device for message in messages if (found := cache.find(message))]
    assert devices == [f"cuda:{number}" for number in range(6)][-LIMIT_ALIKE:]


def test_requests_with_the_same_layout_share_the_layout_object() -> None:
    codec = Codec(None)
    first, second = (read(codec, request("m", PAIR, id=text).SerializeToString())[0] for text in ("1", "22"))
    assert first.layout is second.layout
    assert first.inputs is not second.inputs


def test_changes_to_a_decoded_request_do_not_affect_the_next_one() -> None:
    codec = Codec(None)
    first, _ = read(codec, MESSAGE)
    first.device, first.objective, first.deadline_s = "cuda", "cost", 1.0
    first.inputs.clear()
    assert_like_a_fresh_codec(codec, MESSAGE)
