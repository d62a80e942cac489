"""Writes an answer's bytes, mostly out of parts that were written before.

Messages of one type that are concatenated parse as one message with all their fields (protobuf.dev/programming-guides/encoding,
"Last One Wins"). So each part here is a small message of its own, made once by protobuf itself and kept; what is new in every
answer, the tensors' bytes, is put behind its tag without being copied through message objects three times.
"""

from collections.abc import Iterable
from functools import cache, lru_cache

import numpy as np
from turnout_proto import inference_pb2 as pb

from turnout_server.core.messages import Provenance

#: Tags of `repeated bytes raw_output_contents = 6` and of a stream's `infer_response = 2`.
_RAW_OUTPUT_CONTENTS = bytes([(6 << 3) | 2])
_INFER_RESPONSE = bytes([(2 << 3) | 2])


def join(parts: Iterable[bytes | np.ndarray]) -> bytes:
    """One message out of its parts; arrays count as their bytes."""
    return b"".join(parts)  # type: ignore[arg-type]  # an array is a buffer


@lru_cache(maxsize=1024)
def head(provenance: Provenance) -> bytes:
    """Which model answered, where, and why there."""
    message = pb.ModelInferResponse(model_name=provenance.model, model_version=provenance.version)
    for key in ("device", "device_requested", "route_reason", "precision"):
        message.parameters[key].string_param = getattr(provenance, key)
    return message.SerializeToString()


def request_id(value: str) -> bytes:
    """The request's own id."""
    return pb.ModelInferResponse(id=value).SerializeToString() if value else b""


@lru_cache(maxsize=8192)
def timing(key: str, value: int) -> bytes:
    """A numeric response parameter."""
    message = pb.ModelInferResponse()
    message.parameters[key].int64_param = value
    return message.SerializeToString()


@cache
def _final() -> bytes:
    """Says on a stream that a request gets no more answers than this one."""
    message = pb.ModelInferResponse()
    message.parameters["triton_final_response"].bool_param = True
    return message.SerializeToString()


@lru_cache(maxsize=4096)
def tensor(name: str, datatype: str, shape: tuple[int, ...], byte_size: int) -> bytes:
    """One output's description, and what stands before its bytes."""
    output = pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape)
    return pb.ModelInferResponse(outputs=[output]).SerializeToString() + contents(byte_size)


def contents(byte_size: int) -> bytes:
    """What stands before an output's bytes."""
    return _RAW_OUTPUT_CONTENTS + _varint(byte_size)


def in_stream(response: bytes) -> bytes:
    """A stream's message with an answer in it, and the word that it is its request's last."""
    final = _final()
    return b"".join((_INFER_RESPONSE, _varint(len(response) + len(final)), response, final))


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
