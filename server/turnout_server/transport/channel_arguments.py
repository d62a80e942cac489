"""gRPC's channel arguments: which there are for a server, and whether they are numbers.

gRPC ignores an argument that it doesn't know, and one of the wrong type, and says so only in its own log.
Source: grpc/include/grpc/impl/channel_arg_names.h
"""

import difflib

PREFIX = "grpc."
#: Those whose value is text; all others are numbers, and a switch is 0 or 1.
TEXTS = ("default_authority", "http2_scheme", "lb_policy_name", "primary_user_agent", "secondary_user_agent", "service_config")
#: Those that a server has a use for.
NUMBERS = (
    "absolute_max_metadata_size",
    "enable_channelz",
    "expand_wildcard_addrs",
    "http2.bdp_probe",
    "http2.hpack_table_size.decoder",
    "http2.hpack_table_size.encoder",
    "http2.lookahead_bytes",
    "http2.max_deallocating_streams",
    "http2.max_frame_size",
    "http2.max_ping_strikes",
    "http2.max_pings_without_data",
    "http2.min_ping_interval_without_data_ms",
    "http2.min_time_between_pings_ms",
    "http2.ping_timeout_ms",
    "http2.write_buffer_size",
    "keepalive_permit_without_calls",
    "keepalive_time_ms",
    "keepalive_timeout_ms",
    "max_concurrent_streams",
    "max_connection_age_grace_ms",
    "max_connection_age_ms",
    "max_connection_idle_ms",
    "max_metadata_size",
    "minimal_stack",
    "per_message_compression",
    "per_message_decompression",
    "server_handshake_timeout_ms",
    "server_max_unrequested_time_in_server",
    "so_reuseport",
    "tcp_receive_buffer_size",
)
_LARGEST = 2**31 - 1


def check(name: str, value: object) -> None:
    """Raises ValueError, with what to write instead, if gRPC would ignore an argument."""
    if not name.startswith(PREFIX):
        raise ValueError(f"'{name}' is no channel argument: their names begin with '{PREFIX}'")
    short, known = name.removeprefix(PREFIX), (*NUMBERS, *TEXTS)
    if short not in known and (near := difflib.get_close_matches(short, known, n=1, cutoff=0.85)):
        raise ValueError(f"'{name}' is no channel argument; did you mean {PREFIX}{near[0]}?")
    if not isinstance(value, int | str):
        raise ValueError(f"'{name}' is {value}; it must be a whole number{_hint(short)} or text")
    if short in TEXTS and isinstance(value, int):
        raise ValueError(f"'{name}' is {value}; it must be text")
    if short in NUMBERS and not isinstance(value, int):
        raise ValueError(f"'{name}' is '{value}'; it must be a whole number{_hint(short)}")
    if isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        raise ValueError(f"'{name}' is {value}; it must be from {-_LARGEST} to {_LARGEST}")


def _hint(short: str) -> str:
    return " of milliseconds, such as 60000" if short.endswith("_ms") else ""
