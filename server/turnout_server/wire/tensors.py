"""Converts tensors between the wire and arrays.

Raw tensors are row-major and little-endian (Open Inference Protocol, "Raw Data"). Typed tensors are lists of values in the
field of their datatype. Error texts follow Triton's (core/src/infer_request.cc), because clients match on them.
"""

import math
from collections.abc import Iterable

import numpy as np
from turnout_proto import inference_pb2 as pb

from turnout_server.core import texts
from turnout_server.core.datatypes import DATATYPES, Datatype
from turnout_server.core.errors import InvalidRequest

#: The most dimensions of a tensor; models need fewer, and numpy allows 64.
MAX_RANK = 16

InputTensor = pb.ModelInferRequest.InferInputTensor


def from_raw(tensor: InputTensor, data: bytes | memoryview, model: str) -> np.ndarray:
    """The array of a raw tensor: a view of `data`, possibly unaligned; BYTES are copied.

    Raises:
        InvalidRequest: datatype, shape and data don't match.
    """
    datatype, shape = _datatype(tensor), _shape(tensor, model)
    if datatype.name == "BYTES":
        return _text_array(_split(bytes(data), tensor.name, model), shape, tensor.name, model)
    expected = math.prod(shape) * datatype.itemsize
    if len(data) != expected:
        raise InvalidRequest(
            f"input byte size mismatch for input '{tensor.name}' for model '{model}'. Expected {expected}, got {len(data)}"
        )
    return _reshaped(np.frombuffer(data, datatype.dtype), shape, tensor.name)


def from_typed(tensor: InputTensor, model: str) -> np.ndarray:
    """The array of a typed tensor.

    Raises:
        InvalidRequest: the values are in the wrong field, too few, too many, or out of the datatype's range.
    """
    datatype, shape = _datatype(tensor), _shape(tensor, model)
    if datatype.contents is None:
        raise InvalidRequest(f"input '{tensor.name}' is {datatype.name}, which travels only in raw_input_contents")
    for field, _ in tensor.contents.ListFields():
        if field.name != datatype.contents:
            raise InvalidRequest(
                f"unexpected explicit tensor data for input tensor '{tensor.name}' for model '{model}': {field.name} was "
                f"given, but datatype '{datatype.name}' belongs in {datatype.contents}"
            )
    values = getattr(tensor.contents, datatype.contents)
    if datatype.name == "BYTES":
        return _text_array(values, shape, tensor.name, model)
    if len(values) != math.prod(shape):
        raise InvalidRequest(
            f"input '{tensor.name}' for model '{model}' has {len(values)} elements in {datatype.contents}, "
            f"but shape {list(shape)} holds {math.prod(shape)}"
        )
    try:
        return _reshaped(np.array(values, datatype.dtype), shape, tensor.name)
    except OverflowError:
        raise InvalidRequest(f"a value of input '{tensor.name}' is out of the range of {datatype.name}") from None


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


def _split(data: bytes, name: str, model: str) -> list[bytes]:
    """The elements of a raw BYTES tensor."""
    try:
        return texts.elements_of(data)
    except ValueError as error:
        what, where = error.args
        raise InvalidRequest(f"{what} for inference input '{name}' for model '{model}'{where and f': {where}'}") from None


def _text_array(elements: Iterable[bytes], shape: tuple[int, ...], name: str, model: str) -> np.ndarray:
    values = list(elements)
    if len(values) != math.prod(shape):
        raise InvalidRequest(
            f"unexpected number of string elements {len(values)} for inference input '{name}' for model '{model}', "
            f"expected {math.prod(shape)}"
        )
    array = np.empty(len(values), np.object_)
    try:
        array[:] = [value.decode() for value in values]
    except UnicodeDecodeError:
        raise InvalidRequest(f"input '{name}' for model '{model}' has an element that is not UTF-8 text") from None
    return _reshaped(array, shape, name)


def _reshaped(array: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Reshapes `array`. NumPy refuses shapes whose sizes overflow, even if a dimension is 0."""
    try:
        return array.reshape(shape)
    except ValueError:
        raise InvalidRequest(f"input '{name}' cannot have shape {list(shape)}: its dimensions are too large") from None
