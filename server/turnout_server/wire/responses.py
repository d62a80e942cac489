"""Composes the bytes of a response, mostly from cached segments.

Concatenated messages of one type parse as one message with the fields of all (protobuf.dev/programming-guides/encoding, "Last
One Wins"). So each segment here is a small message that protobuf serialises once and a cache keeps. Only the tensors' bytes are
new in every response: they are appended to their tag, which saves the three copies that message objects would make.
"""

from collections.abc import Iterable
from functools import cache, lru_cache

import numpy as np
from turnout_proto import inference_pb2 as pb

from turnout_server.core.messages import Provenance
from turnout_server.wire.fields import varint

#: Tags of `repeated bytes raw_output_contents = 6` and of a stream's `infer_response = 2`.
_RAW_OUTPUT_CONTENTS = bytes([(6 << 3) | 2])
_INFER_RESPONSE = bytes([(2 << 3) | 2])


def join(segments: Iterable[bytes | np.ndarray]) -> bytes:
    """The message that consists of these segments; arrays contribute their bytes."""
    return b"".join(segments)  # type: ignore[arg-type]  # an array is a buffer


@lru_cache(maxsize=1024)
def head(provenance: Provenance) -> bytes:
    """The segment of a provenance: the model and version, and the parameters about device and precision."""
    message = pb.ModelInferResponse(model_name=provenance.model, model_version=provenance.version)
    for key in ("device", "device_requested", "route_reason", "precision"):
        message.parameters[key].string_param = getattr(provenance, key)
    return message.SerializeToString()


def request_id(value: str) -> bytes:
    """The segment of the request's id; empty if it has none."""
    return pb.ModelInferResponse(id=value).SerializeToString() if value else b""


@lru_cache(maxsize=8192)
def timing(key: str, value: int) -> bytes:
    """The segment of a numeric response parameter."""
    message = pb.ModelInferResponse()
    message.parameters[key].int64_param = value
    return message.SerializeToString()


def text(key: str, value: str) -> bytes:
    """The segment of a response parameter that is a text; it may also be appended to a whole message."""
    message = pb.ModelInferResponse()
    message.parameters[key].string_param = value
    return message.SerializeToString()


@cache
def _final() -> bytes:
    """The segment that marks a response in a stream as the last one of its request."""
    message = pb.ModelInferResponse()
    message.parameters["triton_final_response"].bool_param = True
    return message.SerializeToString()


@lru_cache(maxsize=4096)
def tensor(name: str, datatype: str, shape: tuple[int, ...], byte_size: int) -> bytes:
    """The segment of an output: its description, and the prefix of its bytes, which must follow."""
    output = pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape)
    return pb.ModelInferResponse(outputs=[output]).SerializeToString() + contents(byte_size)


def contents(byte_size: int) -> bytes:
    """The prefix of an output's bytes: their tag and length."""
    return _RAW_OUTPUT_CONTENTS + varint(byte_size)


def in_stream(response: bytes) -> bytes:
    """A stream's message with this response, marked as the last one of its request."""
    final = _final()
    return b"".join((_INFER_RESPONSE, varint(len(response) + len(final)), response, final))
