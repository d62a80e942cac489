"""Finding the server on this machine, and asking it."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from turnout_server.cli.running_server import NoAnswer, address_of, flags_of, get
from turnout_server.observability.http import MonitoringServer, plain
from turnout_server.settings_sources import UsageError


def process(folder: Path, *words: str) -> Path:
    file = folder / "cmdline"
    file.write_text("".join(f"{word}\0" for word in words))
    return file


@pytest.mark.parametrize("words", [("/usr/bin/other", "--metrics-port=1"), ()])
def test_flags_of_another_program_are_not_the_servers(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert flags_of(process(tmp_path, *words)) == []
    assert flags_of(tmp_path / "there is none") == []


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1:9"), ("::", "[::1]:9"), ("[::1]", "[::1]:9"), ("10.0.0.7", "10.0.0.7:9"), ("box", "box:9")],
)
def test_the_address_is_one_that_can_be_asked(host: str, address: str, tmp_path: Path) -> None:
    assert address_of([f"--host={host}", "--metrics-port=9"], process(tmp_path)) == address


def test_flags_given_win_over_those_of_process_1(tmp_path: Path) -> None:
    first = process(tmp_path, "turnout-server", "--metrics-port=7")
    assert address_of([], first) == "127.0.0.1:7"
    assert address_of(["--metrics-port=9"], first) == "127.0.0.1:9"


def test_a_port_that_the_server_picks_cannot_be_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give it a number"):
        address_of(["--metrics-port=0"], process(tmp_path))


def test_whatever_the_server_answers_is_returned() -> None:
    routes = {"/a": lambda query: plain("200 OK", f"yes {query}")}
    server = MonitoringServer("127.0.0.1", 0, CollectorRegistry(), routes)
    server.start()
    try:
        assert get(f"127.0.0.1:{server.port}", "/a?b=1", 5) == (200, "yes b=1\n")
        assert get(f"127.0.0.1:{server.port}", "/b", 5)[0] == 404
    finally:
        server.stop()
    with pytest.raises(NoAnswer, match=f"no server answers on 127.0.0.1:{server.port}: "):
        get(f"127.0.0.1:{server.port}", "/a", 5)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"\0\0\x12\4\0\0\0\0\0", "isn't HTTP: give the metrics port, 8002 unless it was set"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "isn't HTTP: give the metrics port, 8002 unless it was set"),
        (b"", "no server answers on"),
    ],
)
def test_a_port_that_speaks_no_http_is_said_to_be_another_one_and_one_that_is_silent_to_be_none(
    sent: bytes, words: str
) -> None:
    """The bytes of the first are those with which a gRPC server begins."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(sent)

        answered = pool.submit(answer)
        with pytest.raises(NoAnswer, match=words):
            get(f"127.0.0.1:{listening.getsockname()[1]}", "/status", timeout_s=10)
        answered.result()
