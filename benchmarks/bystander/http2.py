"""An HTTP/2 client that does what no library does: it writes the frames that it is told to, right or wrong.

Frames: RFC 9113, section 6. Header fields are literals without compression: RFC 7541, section 6.2.2.
"""

import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4  # a setting
CANCEL = 8  # an error code
LARGEST_FRAME = 16 * 1024
INFER = "/inference.GRPCInferenceService/ModelInfer"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def grpc_message(message: bytes) -> bytes:
    """A message as gRPC writes it into DATA frames, not compressed."""
    return struct.pack(">BI", 0, len(message)) + message


def call_headers(path: str, **more: str) -> bytes:
    """The header block of a gRPC call; underscores in names stand for hyphens."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "test", "te": "trailers"}
    fields |= {"content-type": "application/grpc"} | {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


class Connection:
    """A connection whose streams are opened by `open`; the caller writes and reads the rest.

    Args:
        address: `host:port`.
        window: the flow-control window of each stream, in bytes; 0 to read nothing.
    """

    def __init__(self, address: str, window: int = 65_535) -> None:
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._buffer = b""
        self._stream = -1
        self.send(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window)))

    def send(self, data: bytes) -> None:
        """Writes bytes as they are."""
        self._socket.sendall(data)

    def open(self, path: str, flags: int = END_HEADERS, **headers: str) -> int:
        """Opens a stream with the headers of a call; returns its number."""
        self._stream += 2
        self.send(frame(HEADERS, flags, self._stream, call_headers(path, **headers)))
        return self._stream

    def next(self) -> tuple[int, int, int, bytes]:
        """The next frame: kind, flags, stream, payload. Acknowledges settings and pings.

        Raises:
            ConnectionError: the server closed the connection.
            TimeoutError: nothing came for a while.
        """
        head = self._read(9)
        kind, flags, stream = head[3], head[4], struct.unpack(">I", head[5:])[0]
        payload = self._read(int.from_bytes(head[:3], "big"))
        if kind in (SETTINGS, PING) and not flags & ACK:
            with suppress(OSError):  # the server may have closed the connection after what there is to read
                self.send(frame(kind, ACK, 0, b"" if kind == SETTINGS else payload))
        return kind, flags, stream, payload

    def trailers(self, stream: int) -> bytes:
        """The header block that ends a stream, as it came."""
        while True:
            kind, flags, number, payload = self.next()
            if number == stream and kind == HEADERS and flags & END_STREAM:
                return payload
            if (number == stream and kind == RST_STREAM) or kind == GOAWAY:
                raise ConnectionError(f"frame {kind}: {payload!r}")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._buffer += data
        result, self._buffer = self._buffer[:size], self._buffer[size:]
        return result


def _text(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()
