"""What one client may hold of the server: calls, connections, bytes, and time in which nothing moves."""

from dataclasses import dataclass
from typing import Any

#: While the server stops, a client that doesn't take its answer is waited for this long, in seconds.
DRAIN_STALL_S = 2.0
#: A connection with calls on which nothing arrived for so long is asked whether its client is still there, and closed if nobody
#: answers. By default gRPC asks after two hours, and for so long a client that vanished keeps the places of its streams.
#: The limit is `ping_timeout_ms`: `keepalive_timeout_ms` alone closed nothing (grpcio 1.85).
KEEPALIVE = {"grpc.keepalive_time_ms": 60_000, "grpc.http2.ping_timeout_ms": 20_000}
#: How many ended calls may wait to be freed, as a multiple of those in progress.
ENDED_PER_STREAM = 10


@dataclass(frozen=True)
class Limits:
    """Limits of one client; 0 stands for none.

    Attributes:
        message_bytes: the largest message received or sent.
        streams: calls in progress on one connection; further ones wait in the client.
        age_s: after about this time a connection takes no new calls, and the client opens another one.
        age_grace_s: how long the calls on such a connection may still take.
        idle_s: a connection without calls is closed after this time.
        stall_s: how long a request may take to arrive, or an answer to be taken by its client.
        in_flight_bytes: of all requests and answers in the server together.
    """

    message_bytes: int = 0
    streams: int = 0
    age_s: float = 0.0
    age_grace_s: float = 0.0
    idle_s: float = 0.0
    stall_s: float = 0.0
    in_flight_bytes: int = 0


NO_LIMITS = Limits()


def channel_arguments(limits: Limits) -> dict[str, Any]:
    """The limits that gRPC keeps by itself, as channel arguments."""
    arguments = {
        "grpc.so_reuseport": 0,  # otherwise a second server can bind the same port and take some of its calls
        "grpc.max_receive_message_length": limits.message_bytes,
        "grpc.max_send_message_length": limits.message_bytes,
        **KEEPALIVE,
    }
    wanted = {
        "grpc.max_concurrent_streams": limits.streams,
        # Calls that ended and aren't freed yet count as well. With fewer, a third of 300 calls at once were UNAVAILABLE on aio.
        "grpc.http2.max_deallocating_streams": ENDED_PER_STREAM * limits.streams,
        "grpc.max_connection_age_ms": _ms(limits.age_s),
        "grpc.max_connection_age_grace_ms": _ms(limits.age_grace_s) if limits.age_s else 0,
        "grpc.max_connection_idle_ms": _ms(limits.idle_s),
    }
    return arguments | {name: value for name, value in wanted.items() if value}


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000)) if seconds else 0
