"""The limits that gRPC keeps by itself."""

from turnout_server.transport.limits import Limits, channel_arguments

ALWAYS = {
    "grpc.so_reuseport": 0,
    "grpc.max_receive_message_length": 5,
    "grpc.max_send_message_length": 5,
    "grpc.keepalive_time_ms": 60_000,
    "grpc.http2.ping_timeout_ms": 20_000,
}


def test_limits_become_channel_arguments_in_milliseconds() -> None:
    assert channel_arguments(Limits(5, streams=7, age_s=60, age_grace_s=1.5, idle_s=0.0001)) == {
        **ALWAYS,
        "grpc.max_concurrent_streams": 7,
        "grpc.http2.max_deallocating_streams": 70,
        "grpc.max_connection_age_ms": 60_000,
        "grpc.max_connection_age_grace_ms": 1500,
        "grpc.max_connection_idle_ms": 1,
    }


def test_a_limit_of_zero_is_left_out() -> None:
    assert channel_arguments(Limits(5, age_s=0, age_grace_s=10)) == ALWAYS
