"""HTTP/2 by hand, for clients that no gRPC library would be: they send half a message, or read nothing.

Frames: RFC 9113. Header fields are written as literals without indexing and without Huffman coding (RFC 7541, 6.2.2).
"""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x7
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW_SIZE = 0x4


class Connection:
    """A connection to a gRPC server.

    Args:
        window: how many bytes of each answer the server may send before it is told more; it never is.
    """

    def __init__(self, address: str, window: int = 65535) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._next_stream = 1
        self._socket.sendall(PREFACE + _frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window)))
        self._socket.sendall(_frame(SETTINGS, ACK, 0, b""))

    def call(self, path: str, message: bytes, announced: int | None = None) -> int:
        """Sends a call with one message; returns its stream.

        Args:
            announced: the length that the message's header states; more than it has leaves the call half sent.
        """
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "test",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        whole = announced is None
        self._socket.sendall(_frame(HEADERS, END_HEADERS, stream, b"".join(map(_literal, fields, fields.values()))))
        body = struct.pack(">BI", 0, len(message) if announced is None else announced) + message
        for start in range(0, len(body), 16384):
            part = body[start : start + 16384]
            last = whole and start + 16384 >= len(body)
            self._socket.sendall(_frame(DATA, END_STREAM if last else 0, stream, part))
        return stream

    def wait_for_end(self, stream: int, timeout_s: float) -> bool:
        """Reads until the server ends the call or the connection; False if it doesn't in time."""
        self._socket.settimeout(timeout_s)
        try:
            while True:
                header = self._read(9)
                if not header:
                    return True
                length, kind, flags, number = *struct.unpack(">I", b"\0" + header[:3]), header[3], header[4], header[5:9]
                self._read(length)
                at = struct.unpack(">I", number)[0]
                if at == stream and (kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM)):
                    return True
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                return b""
            data += part
        return data


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _literal(name: str, value: str) -> bytes:
    assert max(len(name), len(value)) < 127
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
