"""Converts tensors between the wire and arrays.

Raw tensors are row-major and little-endian (Open Inference Protocol, "Raw Data"). Typed tensors are lists of values in the
field of their datatype. Error texts follow Triton's (core/src/infer_request.cc), because clients match on them.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from turnout_proto import inference_pb2 as pb

from turnout_server.core import texts
from turnout_server.core.datatypes import DATATYPES, Datatype
from turnout_server.core.errors import InvalidRequest
from turnout_server.wire.allowance import Allowance
from turnout_server.wire.contents import Buffer, WrongFieldError, numbers, values
from turnout_server.wire.fields import MAX_RANK

#: What one text takes besides its characters: an object of Python, its place in an array, and ONNX Runtime's copy.
TEXT_BYTES = 128
#: Up to here the width of a text's characters doesn't matter beside TEXT_BYTES.
SHORT_TEXT_BYTES = 64

InputTensor = pb.ModelInferRequest.InferInputTensor


def from_raw(tensor: InputTensor, data: bytes | memoryview, model: str, allowance: Allowance) -> np.ndarray:
    """The array of a raw tensor: a view of `data`, possibly unaligned; BYTES are copied.

    Raises:
        InvalidRequest: datatype, shape and data don't match, or texts take more memory than is allowed.
    """
    datatype, shape = _datatype(tensor), _shape(tensor, model)
    if datatype.name == "BYTES":
        count = _possible(len(data) // texts.LENGTH_BYTES, shape, tensor.name, model)
        elements = _split(data, tensor.name, model)
        return _reshaped(_texts(elements, count, tensor.name, model, allowance), shape, tensor)
    expected = math.prod(shape) * datatype.itemsize
    if len(data) != expected:
        raise InvalidRequest(
            f"input byte size mismatch for input '{tensor.name}' for model '{model}'. Expected {expected}, got {len(data)}"
        )
    return _reshaped(np.frombuffer(data, datatype.dtype), shape, tensor)


def from_typed(tensor: InputTensor, contents: Sequence[Buffer], model: str, allowance: Allowance) -> np.ndarray:
    """The array of a typed tensor.

    Args:
        contents: the tensor's values; concatenated, one InferTensorContents.

    Raises:
        InvalidRequest: the values are in the wrong field, too few, too many, out of the datatype's range, or take more memory
            than is allowed.
    """
    datatype, shape = _datatype(tensor), _shape(tensor, model)
    if datatype.contents is None:
        raise InvalidRequest(f"input '{tensor.name}' is {datatype.name}, which travels only in raw_input_contents")
    try:
        if datatype.name == "BYTES":
            count = _possible(sum(map(len, contents)) // 2, shape, tensor.name, model)
            flat = _texts(values(contents, datatype.contents), count, tensor.name, model, allowance)
            return _reshaped(flat, shape, tensor)
        return _reshaped(_numbers(tensor, contents, datatype, shape, model, allowance), shape, tensor)
    except WrongFieldError as field:
        raise InvalidRequest(
            f"unexpected explicit tensor data for input tensor '{tensor.name}' for model '{model}': {field} was "
            f"given, but datatype '{datatype.name}' belongs in {datatype.contents}"
        ) from None


def _numbers(
    tensor: InputTensor,
    contents: Sequence[Buffer],
    datatype: Datatype,
    shape: tuple[int, ...],
    model: str,
    allowance: Allowance,
) -> np.ndarray:
    """The numbers of a typed tensor in its datatype, flat."""
    assert datatype.contents is not None
    allowance.take(math.prod(shape) * datatype.itemsize, tensor.name)  # before anything is counted
    count, parts = numbers(contents, datatype.contents)
    if count != math.prod(shape):
        raise InvalidRequest(
            f"input '{tensor.name}' for model '{model}' has {count} elements in {datatype.contents}, "
            f"but shape {list(shape)} holds {math.prod(shape)}"
        )
    array, at = np.empty(count, datatype.dtype), 0
    for part in parts:
        if not _in_range(part, datatype.dtype):
            raise InvalidRequest(f"a value of input '{tensor.name}' is out of the range of {datatype.name}")
        array[at : at + len(part)] = part
        at += len(part)
    return array


def _in_range(part: np.ndarray, dtype: np.dtype) -> bool:
    """Whether numbers of a field fit the datatype, which may be narrower."""
    if part.dtype == dtype or not len(part):
        return True
    limits = np.iinfo(dtype)
    return int(part.min()) >= limits.min and int(part.max()) <= limits.max


def to_raw(array: np.ndarray) -> bytes | np.ndarray:
    """An array's bytes, or for numbers, to avoid a copy, an array whose buffer contains them."""
    if array.dtype.kind != "O":
        return _buffer(array)
    return texts.bytes_of([value if isinstance(value, bytes) else str(value).encode() for value in array.flat])


def _buffer(array: np.ndarray) -> np.ndarray:
    """The same numbers in a contiguous array, with a dtype that supports the buffer protocol (BF16 doesn't)."""
    whole = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    return whole if whole.dtype.isbuiltin == 1 else whole.view(np.uint16)


def _datatype(tensor: InputTensor) -> Datatype:
    datatype = DATATYPES.get(tensor.datatype)
    if datatype is None:
        raise InvalidRequest(f"input '{tensor.name}' has unknown datatype '{tensor.datatype}'; known are {list(DATATYPES)}")
    return datatype


def _shape(tensor: InputTensor, model: str) -> tuple[int, ...]:
    shape = tuple(tensor.shape[:])  # a slice copies all at once, which is faster than iterating
    if len(shape) > MAX_RANK:
        raise InvalidRequest(f"input '{tensor.name}' has {len(shape)} dimensions, at most {MAX_RANK} are taken")
    if shape and min(shape) < 0:
        raise InvalidRequest(
            f"All input dimensions should be specified for input '{tensor.name}' for model '{model}', got {list(shape)}"
        )
    return shape


def _split(data: Buffer, name: str, model: str) -> Iterator[memoryview]:
    """The elements of a raw BYTES tensor."""
    try:
        yield from texts.elements_of(data)
    except ValueError as error:
        what, where = error.args
        raise InvalidRequest(f"{what} for inference input '{name}' for model '{model}'{where and f': {where}'}") from None


def _possible(most: int, shape: tuple[int, ...], name: str, model: str) -> int:
    """The number of elements that a shape holds, if so many texts fit into the data.

    Args:
        most: how many texts fit at most.
    """
    expected = math.prod(shape)
    if expected > most:
        number = f"{most} or fewer" if most else "0"
        raise InvalidRequest(
            f"unexpected number of string elements {number} for inference input '{name}' for model '{model}', "
            f"expected {expected}"
        )
    return expected


def _texts(elements: Iterable[memoryview], expected: int, name: str, model: str, allowance: Allowance) -> np.ndarray:
    """The texts in an array, flat; stops at the first one that is too many or takes too much memory."""
    allowance.take(expected * TEXT_BYTES, name)  # before any of it is built
    array, count = np.empty(expected, np.object_), 0
    for element in elements:
        if count < expected:
            allowance.take(_text_bytes(element), name)
            array[count] = _text(element, name, model)
        count += 1
        if count > expected:
            break
    if count != expected:
        rest = ": the others were not counted" if count > expected else ""
        raise InvalidRequest(
            f"unexpected number of string elements {count} for inference input '{name}' for model '{model}', "
            f"expected {expected}{rest}"
        )
    return array


def _text(element: memoryview, name: str, model: str) -> str:
    try:
        return str(element, "utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"input '{name}' for model '{model}' has an element that is not UTF-8 text") from None


def _text_bytes(element: memoryview) -> int:
    """The most bytes that a text takes as an object. CPython stores all characters as wide as the widest (PEP 393)."""
    if len(element) <= SHORT_TEXT_BYTES:
        return len(element)
    highest = int(np.frombuffer(element, np.uint8).max())
    width = 1 if highest < 0xC4 else 2 if highest < 0xF0 else 4
    return len(element) * width


def _reshaped(array: np.ndarray, shape: tuple[int, ...], tensor: InputTensor) -> np.ndarray:
    """Reshapes `array`. NumPy refuses shapes whose sizes overflow, even if a dimension is 0."""
    try:
        return array.reshape(shape)
    except ValueError:
        raise InvalidRequest(f"input '{tensor.name}' cannot have shape {list(shape)}: its dimensions are too large") from None
