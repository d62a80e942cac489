"""Tests of the thread that decodes large messages."""

import threading
from collections.abc import Callable

import pytest
from turnout_server.core.errors import Overloaded
from turnout_server.rpc.decoding import Decoding

TIMEOUT_S = 10


class Request:
    """A request whose decoding waits until it is told to go on."""

    def __init__(self) -> None:
        self.started, self.go_on, self.decoded, self.cancelled = (threading.Event() for _ in range(4))
        self.thread: int | None = None

    def decode(self) -> Callable[[], None]:
        self.thread = threading.get_ident()
        self.started.set()
        assert self.go_on.wait(TIMEOUT_S)
        self.decoded.set()
        return self.cancelled.set


def test_messages_are_decoded_one_after_the_other_in_another_thread() -> None:
    decoding, requests = Decoding(), [Request(), Request()]
    for request in requests:
        decoding.submit(1, request.decode)
    assert requests[0].started.wait(TIMEOUT_S)
    assert not requests[1].started.is_set()
    for request in requests:
        request.go_on.set()
        assert request.decoded.wait(TIMEOUT_S)
        assert request.thread != threading.get_ident()


def test_a_request_can_be_cancelled_before_while_and_after_it_is_decoded() -> None:
    decoding, running, waiting = Decoding(), Request(), Request()
    cancel_running, cancel_waiting = (decoding.submit(1, request.decode) for request in (running, waiting))
    assert running.started.wait(TIMEOUT_S)
    cancel_running()
    cancel_waiting()
    running.go_on.set()
    assert running.cancelled.wait(TIMEOUT_S)
    last = Request()
    last.go_on.set()
    cancel_last = decoding.submit(1, last.decode)
    assert last.decoded.wait(TIMEOUT_S)
    assert not waiting.started.is_set()
    cancel_last()
    assert last.cancelled.wait(TIMEOUT_S)


def test_only_so_many_bytes_may_wait() -> None:
    decoding, first = Decoding(max_waiting_bytes=100), Request()
    decoding.submit(1000, first.decode)  # nothing waited, so it may have any size
    with pytest.raises(Overloaded, match="1000 bytes of messages wait"):
        decoding.submit(1, Request().decode)
    first.go_on.set()
    assert first.decoded.wait(TIMEOUT_S)
    second, third = Request(), Request()
    while True:  # the first one is given back right after it was decoded
        try:
            decoding.submit(60, second.decode)
            break
        except Overloaded:
            continue
    decoding.submit(40, third.decode)
    with pytest.raises(Overloaded):
        decoding.submit(1, Request().decode)
    for request in (second, third):
        request.go_on.set()
        assert request.decoded.wait(TIMEOUT_S)
