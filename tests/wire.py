"""Requests and responses as a client writes and reads them, independent of the server's code."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import grpc
import ml_dtypes
import numpy as np
import pytest
from turnout_proto import inference_pb2 as pb

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}

#: The field of InferTensorContents for each datatype that has one.
CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

Parameter = str | int | bool | float


def pack(array: np.ndarray) -> bytes:
    """The raw contents of an array. BYTES are object arrays of `bytes`."""
    if array.dtype.kind == "O":
        return b"".join(struct.pack("<I", len(element)) + element for element in array.flat)
    return array.tobytes()


def unpack(data: bytes, datatype: str, shape: Sequence[int]) -> np.ndarray:
    """The array of raw contents."""
    if datatype != "BYTES":
        return np.frombuffer(data, DTYPES[datatype]).reshape(shape)
    elements, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        elements.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(shape)


def request(
    model: str,
    inputs: Mapping[str, np.ndarray],
    *,
    version: str = "",
    id: str = "",
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Parameter] | None = None,
    typed: bool = False,
) -> pb.ModelInferRequest:
    """A ModelInferRequest, with raw tensors, or with typed ones in `contents`."""
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    for name, array in inputs.items():
        datatype = DATATYPES[array.dtype]
        tensor = message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            tensor.contents.SetInParent()
            getattr(tensor.contents, CONTENTS[datatype]).extend(array.ravel().tolist())
        else:
            message.raw_input_contents.append(pack(array))
    for name in outputs:
        message.outputs.add(name=name)
    for key, value in (parameters or {}).items():
        kind = {bool: "bool_param", str: "string_param", int: "int64_param", float: "double_param"}[type(value)]
        setattr(message.parameters[key], kind, value)
    return message


def arrays(response: pb.ModelInferResponse) -> dict[str, np.ndarray]:
    """The outputs of a response, by name."""
    assert len(response.raw_output_contents) == len(response.outputs)
    return {
        tensor.name: unpack(data, tensor.datatype, tensor.shape)
        for tensor, data in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def parameters(response: pb.ModelInferResponse) -> dict[str, str | int]:
    """The response parameters, all of which are strings or integers."""
    return {
        key: value.string_param if value.WhichOneof("parameter_choice") == "string_param" else value.int64_param
        for key, value in response.parameters.items()
    }


@contextmanager
def refused(code: str, *texts: str) -> Iterator[None]:
    """Asserts that the call in the block fails with this status and that its details contain these texts."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error = caught.value
    assert isinstance(error, grpc.Call)
    details = error.details() or ""
    assert (error.code().name, details) == (code, details)
    for text in texts:
        assert text in details


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    """Asserts equality bit by bit: a NaN equals itself, and -0 differs from 0."""
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if want.dtype.kind == "O":
        assert got.tolist() == want.tolist()
    else:
        assert got.tobytes() == want.tobytes()
