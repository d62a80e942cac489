"""Protobuf on one side, requests and answers on the other.

Layout of raw tensors (row-major, little-endian; BYTES as a uint32 length before each element): Open Inference Protocol,
"Raw Data". Error texts follow Triton's, because clients match on them.
"""

import math
import struct
from collections.abc import Iterable, Mapping

import numpy as np
from google.protobuf.message import DecodeError
from turnout_proto import inference_pb2 as pb

from turnout_server.datatypes import DATATYPES, Datatype, of_dtype
from turnout_server.errors import InvalidRequest
from turnout_server.messages import InferRequest, InferResponse

#: No tensor that a model takes has more dimensions; numpy stops at 64.
MAX_RANK = 16


def parse(message: bytes) -> pb.ModelInferRequest:
    """Reads a message.

    Raises:
        InvalidRequest: it isn't a ModelInferRequest.
    """
    try:
        return pb.ModelInferRequest.FromString(message)
    except DecodeError:
        raise InvalidRequest("the message is not a valid ModelInferRequest") from None


def decode(request: pb.ModelInferRequest, metadata: Mapping[str, str]) -> InferRequest:
    """The request in a message. Numbers in raw form become views of the message's bytes, not copies.

    Args:
        metadata: of the call; `device` counts where the request's own parameters don't name one.

    Raises:
        InvalidRequest: what is wrong, and with which tensor.
    """
    if not request.model_name:
        raise InvalidRequest("the request names no model: set model_name")
    return InferRequest(
        model=request.model_name,
        version=request.model_version,
        id=request.id,
        inputs=_inputs(request),
        outputs=_outputs(request),
        device=_string_parameter(request, "device") or metadata.get("device", ""),
        timeout_us=_timeout_us(request),
    )


def encode(response: InferResponse) -> bytes:
    """Writes a ModelInferResponse; outputs are always raw, because that is what every client reads."""
    message = pb.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    for key, value in response.parameters.items():
        if isinstance(value, str):
            message.parameters[key].string_param = value
        else:
            message.parameters[key].int64_param = value
    for name, array in response.outputs.items():
        message.outputs.add(name=name, datatype=of_dtype(array.dtype).name, shape=array.shape)
        message.raw_output_contents.append(_pack(array))
    return message.SerializeToString()


def _string_parameter(request: pb.ModelInferRequest, key: str) -> str:
    if key not in request.parameters:
        return ""
    parameter = request.parameters[key]
    if parameter.WhichOneof("parameter_choice") != "string_param":
        raise InvalidRequest(f"invalid value type for '{key}' parameter, expected string_param.")
    if not parameter.string_param:
        raise InvalidRequest(f"the '{key}' parameter is empty; leave it out or name a device")
    return parameter.string_param


def _timeout_us(request: pb.ModelInferRequest) -> int | None:
    """The `timeout` parameter in microseconds; None where there is none, or it says 0."""
    if "timeout" not in request.parameters:
        return None
    parameter = request.parameters["timeout"]
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise InvalidRequest("invalid value type for 'timeout' parameter, expected int64_param.")
    if parameter.int64_param < 0:
        raise InvalidRequest(f"the 'timeout' parameter must not be negative, got {parameter.int64_param}")
    return parameter.int64_param or None


def _outputs(request: pb.ModelInferRequest) -> tuple[str, ...]:
    names = tuple(output.name for output in request.outputs)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"output '{twice}' already exists in request for model '{request.model_name}'")
    return names


def _inputs(request: pb.ModelInferRequest) -> dict[str, np.ndarray]:
    raw = iter(request.raw_input_contents)
    arrays: dict[str, np.ndarray] = {}
    for tensor in request.inputs:
        if tensor.name in arrays:
            raise InvalidRequest(f"input '{tensor.name}' already exists in request for model '{request.model_name}'")
        if tensor.HasField("contents"):
            if request.raw_input_contents:
                raise InvalidRequest(
                    f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
                    f"for model '{request.model_name}'"
                )
            arrays[tensor.name] = _typed(tensor, request.model_name)
        else:
            arrays[tensor.name] = _raw(tensor, next(raw, None), request.model_name)
    if next(raw, None) is not None:
        raise InvalidRequest(
            f"{len(request.raw_input_contents)} raw_input_contents for {len(request.inputs)} inputs "
            f"for model '{request.model_name}'"
        )
    return arrays


def _datatype(tensor: pb.ModelInferRequest.InferInputTensor) -> Datatype:
    datatype = DATATYPES.get(tensor.datatype)
    if datatype is None:
        raise InvalidRequest(f"input '{tensor.name}' has unknown datatype '{tensor.datatype}'; known are {list(DATATYPES)}")
    return datatype


def _shape(tensor: pb.ModelInferRequest.InferInputTensor, model: str) -> tuple[int, ...]:
    if len(tensor.shape) > MAX_RANK:
        raise InvalidRequest(f"input '{tensor.name}' has {len(tensor.shape)} dimensions, at most {MAX_RANK} are taken")
    shape = tuple(tensor.shape)
    if any(size < 0 for size in shape):
        raise InvalidRequest(
            f"All input dimensions should be specified for input '{tensor.name}' for model '{model}', got {list(shape)}"
        )
    return shape


def _raw(tensor: pb.ModelInferRequest.InferInputTensor, data: bytes | None, model: str) -> np.ndarray:
    if data is None:
        raise InvalidRequest(f"unable to find data for input tensor '{tensor.name}' for model '{model}' in request.")
    datatype, shape = _datatype(tensor), _shape(tensor, model)
    if datatype.name == "BYTES":
        elements = _split(data, tensor.name, model)
        return _text_array(elements, shape, tensor.name, model)
    expected = math.prod(shape) * datatype.itemsize
    if len(data) != expected:
        raise InvalidRequest(
            f"input byte size mismatch for input '{tensor.name}' for model '{model}'. Expected {expected}, got {len(data)}"
        )
    return np.frombuffer(data, datatype.dtype).reshape(shape)


def _typed(tensor: pb.ModelInferRequest.InferInputTensor, model: str) -> np.ndarray:
    """The array of a tensor given by `contents`."""
    datatype, shape = _datatype(tensor), _shape(tensor, model)
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    if datatype.contents is None:
        raise InvalidRequest(f"input '{tensor.name}' is {datatype.name}, which travels only in raw_input_contents")
    for field in filled:
        if field != datatype.contents:
            raise InvalidRequest(
                f"unexpected explicit tensor data for input tensor '{tensor.name}' for model '{model}': {field} was given, "
                f"but datatype '{datatype.name}' belongs in {datatype.contents}"
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
        return np.array(values, datatype.dtype).reshape(shape)
    except OverflowError:
        raise InvalidRequest(f"a value of input '{tensor.name}' is out of the range of {datatype.name}") from None


def _split(data: bytes, name: str, model: str) -> list[bytes]:
    """The elements of a raw BYTES tensor."""
    elements, at = [], 0
    while at < len(data):
        if at + 4 > len(data):
            raise InvalidRequest(f"incomplete string length indicator for inference input '{name}' for model '{model}'")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > len(data):
            raise InvalidRequest(
                f"incomplete string data for inference input '{name}' for model '{model}': "
                f"an element of {length} bytes with {len(data) - at} left"
            )
        elements.append(data[at : at + length])
        at += length
    return elements


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
    return array.reshape(shape)


def _pack(array: np.ndarray) -> bytes:
    if array.dtype.kind != "O":
        return array.tobytes()
    elements = [value if isinstance(value, bytes) else str(value).encode() for value in array.flat]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
