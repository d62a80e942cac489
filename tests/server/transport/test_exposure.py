"""When to warn of ports that others reach."""

from dataclasses import replace

import pytest
from turnout_server.transport.exposure import Exposure, is_local, warnings

LOCAL = Exposure("127.0.0.1", "127.0.0.1", tls=False, authenticated=False, loads=False, control=False)
OPEN = replace(LOCAL, grpc_host="0.0.0.0")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST", "unix:/run/turnout.sock"])
def test_only_this_machine_reaches_loopback_and_unix_sockets(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "192.0.2.1", "example.org", "localhost.example.org", ""])
def test_others_reach_every_other_address(host: str) -> None:
    assert not is_local(host)


def test_a_server_for_this_machine_warns_of_nothing() -> None:
    assert list(warnings(replace(LOCAL, loads=True, control=True))) == []


def test_a_port_without_protection_is_warned_of_with_what_clients_may_do_and_the_settings() -> None:
    plain, anybody = warnings(replace(OPEN, loads=True, control=True))
    assert "not encrypted; set --tls-certificate" in plain
    assert "may use every model and load and unload models and change log and trace settings; set --tokens" in anybody


def test_what_is_protected_is_not_warned_of() -> None:
    assert len(list(warnings(OPEN))) == 2
    assert len(list(warnings(replace(OPEN, tls=True)))) == 1
    assert list(warnings(replace(OPEN, tls=True, authenticated=True))) == []


def test_the_metrics_port_is_warned_of_by_itself() -> None:
    (warning,) = warnings(replace(LOCAL, metrics_host="0.0.0.0"))
    assert "--metrics-host=127.0.0.1" in warning
