import os
import socket
import threading
from collections.abc import Iterator

import pytest
from turnout_server.core.errors import InvalidRequest
from turnout_server.devices import messages
from turnout_server.devices.messages import Connection


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("size", [0, 1, 13, 2**16 - 4, 2**16, 300_000])
def test_messages_of_any_size_arrive_whole(ends: tuple[socket.socket, socket.socket], size: int) -> None:
    body = os.urandom(size)
    sender, receiver = map(Connection, ends)
    for _ in range(2):
        thread = threading.Thread(target=sender.send, args=(body,))
        thread.start()
        assert bytes(receiver.receive()) == body
        thread.join(timeout=10)


def test_a_message_in_pieces_is_put_together(ends: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = ends
    whole = (5).to_bytes(4, "little") + b"abcde"

    def send() -> None:
        for number in range(len(whole)):
            sender.sendall(whole[number : number + 1])

    thread = threading.Thread(target=send)
    thread.start()
    assert bytes(Connection(receiver).receive()) == b"abcde"
    thread.join(timeout=10)


@pytest.mark.parametrize("asleep", [True, False])
def test_waiting_ends_at_the_limit(ends: tuple[socket.socket, socket.socket], asleep: bool) -> None:
    connection = Connection(ends[0])
    if not asleep:  # an answer that came at once keeps the next wait awake at first
        Connection(ends[1]).send(b"soon")
        connection.receive()
    connection.limit(0.01)
    with pytest.raises(TimeoutError):
        connection.receive()


def test_sending_to_an_end_that_does_not_read_ends_at_the_limit(ends: tuple[socket.socket, socket.socket]) -> None:
    connection = Connection(ends[0])
    connection.limit(0.01)
    with pytest.raises(TimeoutError):
        connection.send(bytes(50_000_000))


def test_the_end_of_the_other_side_is_noticed(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[1].close()
    with pytest.raises(EOFError):
        Connection(ends[0]).receive()


def test_what_is_asked_and_answered_is_what_was_meant() -> None:
    assert messages.call_of(memoryview(messages.call("open", 3, "path"))) == (messages.CALL, "open", 3, "path")
    assert messages.call_of(memoryview(messages.run(7, 2**33))) == (messages.RUN, 7, 2**33, 0.0)
    assert messages.call_of(memoryview(messages.describe_and_run(7, 1, {}))) == (messages.DESCRIBE_AND_RUN, 7, 1, {}, 0.0)
    assert len(messages.run(7, 2**33)) == 21
    assert messages.outcome_of(memoryview(messages.DONE)) == ("ok", {})
    assert messages.outcome_of(memoryview(messages.UNKNOWN_LAYOUT)) == ("unknown layout", None)
    kind, error = messages.outcome_of(memoryview(messages.outcome(("error", InvalidRequest("wrong")))))
    assert (kind, str(error)) == ("error", "wrong")
