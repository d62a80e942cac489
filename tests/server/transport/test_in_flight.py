"""The bytes that clients may hold of the server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.transport.in_flight import InFlight, client_of

A, B = "ipv4:192.0.2.1:1", "ipv4:192.0.2.2:1"


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:192.0.2.1:4711", "ipv4:192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "ipv6:%5B2001:db8::1%5D"),
        ("ipv6:[2001:db8::1]:4711", "ipv6:[2001:db8::1]"),
        ("unix:", "unix:"),
        ("unix:/run/a:1", "unix:/run/a:1"),
    ],
)
def test_a_client_is_its_address_without_the_port(peer: str, client: str) -> None:
    assert client_of(peer) == client


def test_a_client_may_hold_half_whatever_its_connections() -> None:
    held = InFlight(100)
    held.hold(A, 30)
    held.hold("ipv4:192.0.2.1:2", 15)
    assert held.refusal(A, 5) is None
    assert "this client holds" in (held.refusal(A, 6) or "")
    assert held.refusal(B, 50) is None


def test_all_clients_together_may_hold_the_limit() -> None:
    held = InFlight(100)
    held.hold(A, 50)
    held.hold(B, 45)
    assert held.refusal("ipv4:192.0.2.3:1", 5) is None
    assert "the server holds" in (held.refusal("ipv4:192.0.2.3:1", 6) or "")


def test_a_message_larger_than_the_limit_is_taken_if_nothing_else_is_held() -> None:
    held = InFlight(100)
    assert held.refusal(A, 1000) is None
    held.hold(A, 1000)
    assert held.refusal(B, 1) is not None
    held.release(A, 1000)
    assert held.refusal(B, 1000) is None


def test_it_is_tight_while_somebody_is_at_a_limit() -> None:
    held = InFlight(100)
    held.hold(A, 49)
    assert not held.is_tight
    held.hold(A, 1)
    assert held.is_tight
    held.release(A, 1)
    assert not held.is_tight


def test_without_a_limit_everything_is_taken() -> None:
    held = InFlight(0)
    held.hold(A, 2**40)
    assert held.refusal(A, 2**40) is None
    assert not held.is_tight


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 100))))
def test_what_is_released_leaves_nothing(messages: list[tuple[str, int]]) -> None:
    held = InFlight(10)
    for peer, size in messages:
        held.hold(peer, size)
    for peer, size in reversed(messages):
        held.release(peer, size)
    assert not held.is_tight
    assert held.refusal(A, 10**6) is None
