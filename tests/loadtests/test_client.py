from pathlib import Path

import grpc
import numpy as np
import pytest
from turnout_loadtests.client import (
    connect,
    is_loopback,
    model_metadata,
    read_service_config,
    server_name,
    wait_until_ready,
    why_unavailable,
)
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.payloads import infer_request
from turnout_proto.methods import Stub

ROW = {"x": np.zeros((1, 4), np.float32)}


def test_a_device_that_answers_is_available(stub: Stub) -> None:
    assert why_unavailable(stub, infer_request("add", ROW, "cpu")) is None


def test_a_missing_device_is_unavailable_for_the_servers_reason(stub: Stub) -> None:
    assert why_unavailable(stub, infer_request("add", ROW, "cuda")) == "no such device here"


def test_a_busy_device_is_available(stub: Stub) -> None:
    assert why_unavailable(stub, infer_request("add", ROW, "failing")) is None


def test_without_a_name_the_first_ready_model_is_used(stub: Stub) -> None:
    assert model_metadata(stub, "").name == "add"


def test_an_unknown_model_is_an_error_of_one_line(stub: Stub) -> None:
    with pytest.raises(LoadTestError, match="NOT_FOUND: unknown model 'nope'"):
        model_metadata(stub, "nope")


def test_waiting_ends_once_the_server_is_ready(stub: Stub) -> None:
    wait_until_ready(stub, 5.0)
    assert server_name(stub) == "fake 1"


def test_waiting_for_a_missing_server_ends_at_the_timeout(closed_port: int) -> None:
    missing = connect(f"127.0.0.1:{closed_port}")
    with pytest.raises(LoadTestError, match="wasn't ready within 0 s"):
        wait_until_ready(missing, 0.3)
    with pytest.raises(LoadTestError, match=grpc.StatusCode.UNAVAILABLE.name):
        server_name(missing)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:8001", True),
        ("localhost:8001", True),
        ("[::1]:8001", True),
        ("127.1.2.3:1", True),
        ("10.0.0.1:8001", False),
        ("localhost.example.org:8001", False),
        ("[2001:db8::1]:8001", False),
        ("server", False),
    ],
)
def test_a_server_on_this_machine_is_asked_without_a_proxy(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_a_service_config_is_read_and_refused_where_grpc_would_ignore_it(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text('{"methodConfig": []}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "text.json").write_text("round_robin")
    assert read_service_config("") == ""
    assert read_service_config(str(tmp_path / "good.json")) == '{"methodConfig": []}'
    for name, words in (("list", "it is no JSON object"), ("text", "Expecting value"), ("none", "No such file")):
        with pytest.raises(LoadTestError, match=f"--service-config .*{name}.json: {words}"):
            read_service_config(str(tmp_path / f"{name}.json"))
