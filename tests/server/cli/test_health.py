"""`turnout-server health` follows the server's own settings, wherever they come from."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from prometheus_client import CollectorRegistry
from turnout_server.cli import health
from turnout_server.observability.http import MonitoringServer, probe


class Server:
    """A monitoring server on a free port, and the readiness that it reports."""

    def __init__(self) -> None:
        self.ready = True
        routes = {"/readyz": probe(lambda: self.ready, "ready", "not ready")}
        self.monitoring = MonitoringServer("127.0.0.1", 0, CollectorRegistry(), routes)
        self.port = self.monitoring.port


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.monitoring.start()
    yield server
    server.monitoring.stop()


@pytest.fixture
def nobody(tmp_path: Path) -> Path:
    """The command line of a process 1 that is no server."""
    return process(tmp_path, "/sbin/init", "splash")


def process(folder: Path, *words: str) -> Path:
    file = folder / "cmdline"
    file.write_text("".join(f"{word}\0" for word in words))
    return file


def test_a_ready_server_is_0_and_any_other_is_1(server: Server, nobody: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = [f"--metrics-port={server.port}"]
    assert (health.main(flags, nobody), capfd.readouterr().out) == (0, "ready\n")
    server.ready = False
    assert (health.main(flags, nobody), capfd.readouterr().err) == (1, "not ready\n")


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost"])
def test_the_address_to_listen_on_is_one_to_ask(server: Server, host: str, nobody: Path) -> None:
    assert health.main([f"--host={host}", f"--metrics-port={server.port}"], nobody) == 0


def test_the_port_comes_from_the_environment(server: Server, nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_METRICS_PORT", str(server.port))
    assert health.main([], nobody) == 0


def test_the_port_comes_from_the_file(server: Server, nobody: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "turnout.toml").write_text(f"metrics_port = {server.port}\n")
    monkeypatch.setenv("TURNOUT_CONFIG", str(tmp_path / "turnout.toml"))
    assert health.main([], nobody) == 0


@pytest.mark.parametrize(
    "start",
    [
        ["/opt/turnout/bin/python", "/opt/turnout/bin/turnout-server"],
        ["/opt/turnout/bin/python", "/opt/turnout/bin/turnout-server", "serve"],
        ["python", "-m", "turnout_server"],
        ["/sbin/docker-init", "--", "turnout-server"],
    ],
)
def test_the_port_comes_from_the_flags_of_process_1(server: Server, start: list[str], tmp_path: Path) -> None:
    assert health.main([], process(tmp_path, *start, "--metrics-port", str(server.port))) == 0


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--metrics-port=1"], "no server answers on 127.0.0.1:1: "),
        (["--host=::", "--metrics-port=1"], "no server answers on [::1]:1: "),
        (["--metrics-port=0"], "--metrics-port=0 lets the server pick a free port"),
        (["--metrics-port=x"], "--metrics-port: x: "),
        (["--metrics-prot=1"], "--metrics-prot"),
    ],
)
def test_whatever_is_wrong_is_said_with_status_1(
    flags: list[str], text: str, nobody: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert health.main(flags, nobody) == 1
    assert text in capfd.readouterr().err


def test_a_proxy_is_not_asked(server: Server, nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert health.main([f"--metrics-port={server.port}"], nobody) == 0


def test_help_says_what_the_status_means() -> None:
    with click.Context(health.health) as context:
        assert "0 if it is ready, 1 if not" in health.health.get_help(context)
