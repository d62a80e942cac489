"""Messages between the server and a device's process: a length, and a body that begins with what it is.

A run of a layout that both know takes 21 bytes one way and one byte back. Everything else is pickled: both ends are ours.
"""

import pickle
import socket
import struct
import time
from contextlib import suppress
from typing import Any

#: What a message asks for: a command; a run of a known layout; a run of a layout that comes with it.
CALL, RUN, DESCRIBE_AND_RUN = 0, 1, 2
#: Answers to a run: its outputs are in their places; or its layout was forgotten, and must be described.
DONE, UNKNOWN_LAYOUT = b"\0", b"\2"
_PICKLED = b"\1"
#: Waiting for a message doesn't sleep for this long if the last one came within `SOON_S`. A run of two additions took 38 us so,
#: both ways included, and 130 us asleep; the CPU time of both ends fell by two fifths (two cores of a virtual machine).
SPIN_S, SOON_S = 40e-6, 150e-6
#: Layouts that each end remembers for a slot; the server describes others anew.
MAX_LAYOUTS = 512

_LENGTH = struct.Struct("<I")
_RUN = struct.Struct("<BIQd")
#: Nearly every message arrives with one read of this size.
_READ_BYTES = 1 << 16


class Connection:
    """One end of a socket, over which each message is answered before the next is sent.

    The system limits how long it waits. Python's own limit, `settimeout`, takes another call of the system for each.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._timeout_s = 0.0
        self._awake = False
        self._buffer = bytearray(_READ_BYTES)
        self._view = memoryview(self._buffer)

    def limit(self, timeout_s: float) -> None:
        """Limits how long sending and receiving wait for the other end, from now on."""
        if timeout_s == self._timeout_s:
            return
        value = struct.pack("ll", *divmod(max(1, round(timeout_s * 1e6)), 10**6))  # 0 would be no limit
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
        self._timeout_s = timeout_s

    def send(self, body: bytes) -> None:
        """Sends a message.

        Raises:
            TimeoutError, OSError: the other end doesn't read in time, or is gone.
        """
        try:
            self._socket.sendall(_LENGTH.pack(len(body)) + body)
        except BlockingIOError:
            raise TimeoutError from None

    def receive(self) -> memoryview:
        """The body of the next message; valid until the next call.

        Raises:
            TimeoutError, OSError, EOFError: the other end doesn't send in time, or is gone.
        """
        try:
            have = self._first_read()
            while have < _LENGTH.size:
                have += self._read(have)
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if end > len(self._buffer):
                self._grow(end, have)
            while have < end:
                have += self._read(have)
        except BlockingIOError:
            raise TimeoutError from None
        return self._view[_LENGTH.size : end]

    def _first_read(self) -> int:
        """Waits for a message: awake at first if the last one came soon, because sleeping and waking take longer than that."""
        started_s = time.monotonic()
        while self._awake and time.monotonic() - started_s < SPIN_S:
            with suppress(BlockingIOError):
                return self._read(0, socket.MSG_DONTWAIT)
        have = self._read(0)
        self._awake = time.monotonic() - started_s < SOON_S
        return have

    def _read(self, have: int, flags: int = 0) -> int:
        if not (count := self._socket.recv_into(self._view[have:], 0, flags)):
            raise EOFError("the other end is gone")
        return count

    def _grow(self, size: int, have: int) -> None:
        larger = bytearray(size)
        larger[:have] = self._view[:have]
        self._buffer, self._view = larger, memoryview(larger)


def call(*command_and_arguments: Any) -> bytes:
    """A command with its arguments."""
    return bytes([CALL]) + pickle.dumps(command_and_arguments, pickle.HIGHEST_PROTOCOL)


def run(uid: int, size: int, timeout_s: float = 0.0) -> bytes:
    """A run of a layout that was described, by its number and its size in bytes; it ends after `timeout_s`, 0 for no limit."""
    return _RUN.pack(RUN, uid, size, timeout_s)


def describe_and_run(uid: int, number: int, layout: Any, timeout_s: float = 0.0) -> bytes:
    """A run of a session on a layout, which gets a number for later."""
    return bytes([DESCRIBE_AND_RUN]) + pickle.dumps((uid, number, layout, timeout_s), pickle.HIGHEST_PROTOCOL)


def call_of(body: memoryview) -> tuple[Any, ...]:
    """What a message asks for, and its arguments."""
    if body[0] == RUN:
        return _RUN.unpack(body)
    return (body[0], *pickle.loads(body[1:]))


def outcome(result: tuple[str, Any]) -> bytes:
    """The answer to a command: `ok` and its result, `error` and a ServingError, or `sticky` and a text."""
    return _PICKLED + pickle.dumps(result, pickle.HIGHEST_PROTOCOL)


def outcome_of(body: memoryview) -> tuple[str, Any]:
    """What an answer says; `unknown layout` if that has to be described."""
    if body == DONE:
        return "ok", {}
    if body == UNKNOWN_LAYOUT:
        return "unknown layout", None
    kind, result = pickle.loads(body[1:])
    return kind, result
