"""Tests the explanations of a running server, over HTTP and by `turnout-server explain --at`."""

import json
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest

from tests.servers import RunningServer
from tests.wire import parameters, request

ROW = {"INPUT": np.ones((1, 2), np.float32)}


def ask(server: RunningServer, query: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{server.monitoring}/explain?{query}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def explain(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    address = server.monitoring.removeprefix("http://")
    command = [sys.executable, "-m", "turnout_server", "explain", *arguments, f"--at={address}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("device", ["cpu", "auto", "cpu,auto"])
def test_an_explanation_matches_the_route_of_a_request(server: RunningServer, device: str) -> None:
    status, text = ask(server, f"model=fp32_batch&device={device}")
    explanation = json.loads(text)
    got = parameters(server.stub.ModelInfer(request("fp32_batch", ROW, parameters={"device": device})))
    assert (status, explanation["device"], explanation["reason"]) == (200, got["device"], got["route_reason"])


def test_explanations_contain_the_current_profiles(server: RunningServer) -> None:
    def runs() -> int:
        profile = json.loads(ask(server, "model=fp32_batch")[1])["devices"][0]["profile"]
        return int(profile["1"]["runs"])

    before = runs()
    server.stub.ModelInfer(request("fp32_batch", ROW))
    assert runs() > before


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("", 400, "which model"),
        ("model=fp32_batch&rows=9", 400, "batch-size must be <= 8"),
        ("model=fp32_batch&rows=many", 400, "rows: 'many' is not a whole number"),
        ("model=fp32_batch&device=tpu", 400, "unknown device 'tpu'"),
        ("model=broken", 400, "could not be loaded"),
        ("model=nope", 404, "'nope' is not found"),
    ],
)
def test_an_invalid_query_is_refused_with_the_reason(server: RunningServer, query: str, status: int, words: str) -> None:
    got, text = ask(server, query)
    assert (got, text.count("\n")) == (status, 1)
    assert words in text


def test_the_command_prints_an_explanation(server: RunningServer) -> None:
    done = explain(server, "fp32_batch", "--rows=2", "--load=10/s")
    assert (done.returncode, done.stderr) == (0, "")
    assert "as its queues are now" in done.stdout.replace("\n  ", " ")
    assert "LOAD" in done.stdout


def test_the_command_prints_the_servers_json(server: RunningServer) -> None:
    assert json.loads(explain(server, "fp32_batch", "--json").stdout)["model"] == "fp32_batch"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nope"], 2, "'nope' is not found"),
        (["fp32_batch", "--rows=9"], 2, "batch-size must be <= 8"),
        (["fp32_batch", "--deadline=0.001us"], 1, "would be refused"),
        (["fp32_batch", "--device=coreml"], 1, "device 'coreml' is not available"),
    ],
)
def test_the_commands_exit_status_tells_refusals_from_usage_errors(
    server: RunningServer, arguments: list[str], status: int, words: str
) -> None:
    done = explain(server, *arguments)
    assert done.returncode == status
    assert words in done.stdout + done.stderr


def test_a_port_with_another_protocol_is_a_usage_error(server: RunningServer) -> None:
    command = [sys.executable, "-m", "turnout_server", "explain", "fp32_batch", f"--at={server.address}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert server.address in done.stderr
