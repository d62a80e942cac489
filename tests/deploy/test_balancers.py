"""The shipped files of balancers: no request is lost while servers come, restart and go behind them."""

import json
from pathlib import Path

import pytest

from benchmarks.replicas import balancers, rolling
from benchmarks.replicas.__main__ import CASE, replicas
from benchmarks.replicas.age import Curve
from benchmarks.replicas.balancers import BALANCERS, SHIPPED, localised
from benchmarks.replicas.replicas import Replica
from benchmarks.replicas.rolling import roll


@pytest.fixture
def three(tmp_path: Path) -> list[Replica]:
    with (tmp_path / "log").open("wb") as log:
        return [Replica(index, tmp_path, log) for index in range(3)]


@pytest.mark.parametrize("name", ["nginx.conf", "haproxy.cfg"])
def test_every_address_of_a_shipped_file_is_replaced(name: str, three: list[Replica]) -> None:
    text = localised((SHIPPED / name).read_text(), three, 7)
    assert "127.0.0.1:7" in text
    assert ":8001" not in text
    assert "port 8002" not in text
    assert "0.0.0.0" not in text
    for replica in three:
        assert text.count(replica.address) == 1


def test_with_fewer_servers_their_lines_are_left_out(three: list[Replica]) -> None:
    assert localised((SHIPPED / "nginx.conf").read_text(), three[:2], 7).count("max_fails") == 2


@pytest.mark.parametrize("name", ["service-config.json", "service-config-behind-proxy.json"])
def test_a_service_config_repeats_what_a_server_dropped(name: str) -> None:
    (method,) = json.loads((SHIPPED / name).read_text())["methodConfig"]
    assert method["name"] == [{"service": "inference.GRPCInferenceService"}]
    assert set(method["retryPolicy"]["retryableStatusCodes"]) == {"UNAVAILABLE", "CANCELLED"}


def test_only_the_client_that_knows_all_servers_asks_for_their_health() -> None:
    alone, behind = (
        json.loads((SHIPPED / name).read_text()) for name in ("service-config.json", "service-config-behind-proxy.json")
    )
    assert alone["healthCheckConfig"] == {"serviceName": ""}
    assert alone["loadBalancingConfig"] == [{"round_robin": {}}]
    assert "healthCheckConfig" not in behind


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", [name for name in BALANCERS if "plain" not in name])
def test_no_request_fails_while_servers_are_added_restarted_and_taken_away(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    balancer, program = BALANCERS[name]
    if not balancers.available(program):
        pytest.skip(f"{program} isn't installed here; on Debian: apt-get install {program}")
    monkeypatch.setattr(rolling, "PAUSE_S", 1.0)
    with replicas() as (folder, running), balancer(running, folder) as target:
        outcome = roll(running, target, CASE.name, requests=2000, users=2, folder=folder)
    assert outcome.failures == {}
    assert outcome.failed == 0
    assert outcome.requests >= 2000
    assert outcome.exits == [0, 0, 0, 0]


def test_the_share_of_the_new_replica_counts_from_the_given_time() -> None:
    curve = Curve(0, at_s=[0, 1, 2, 3], answered={"a": [0, 10, 20, 30], "b": [0, 10, 10, 40]})
    assert curve.share_of_last(2) == 0.75
    assert curve.share_of_last(0) == pytest.approx(4 / 7)
