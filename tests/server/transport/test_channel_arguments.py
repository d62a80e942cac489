import pytest
from turnout_server.transport import channel_arguments


@pytest.mark.parametrize("name", channel_arguments.NUMBERS)
def test_a_number_is_taken_and_text_in_its_place_is_refused(name: str) -> None:
    channel_arguments.check(f"grpc.{name}", 1)
    with pytest.raises(ValueError, match="must be a whole number"):
        channel_arguments.check(f"grpc.{name}", "abc")


@pytest.mark.parametrize("name", channel_arguments.TEXTS)
def test_text_is_taken_and_a_number_in_its_place_is_refused(name: str) -> None:
    channel_arguments.check(f"grpc.{name}", "abc")
    with pytest.raises(ValueError, match="must be text"):
        channel_arguments.check(f"grpc.{name}", 1)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("grpc.keepalive_time", "grpc.keepalive_time_ms"),
        ("grpc.http2.max_ping_strike", "grpc.http2.max_ping_strikes"),
    ],
)
def test_a_misspelled_argument_is_refused_with_what_was_meant(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {meant}"):
        channel_arguments.check(name, 1)


@pytest.mark.parametrize("name", ["grpc.experimental.tcp_read_chunk_size", "grpc.some_new_argument"])
@pytest.mark.parametrize("value", [1, "abc"])
def test_an_argument_that_grpc_may_know_is_taken(name: str, value: int | str) -> None:
    channel_arguments.check(name, value)


@pytest.mark.parametrize("value", [2**31, -(2**31)])
def test_a_number_that_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="must be from"):
        channel_arguments.check("grpc.max_connection_age_ms", value)
