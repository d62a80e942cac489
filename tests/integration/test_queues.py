"""Tests of configured queues and declared devices: priorities, deadlines, delays, instances, chunks and prices."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest

from tests import models
from tests.integration.test_scheduling import busy, metric, runs_of, wait_for_in_flight
from tests.servers import RunningServer, running
from tests.wire import arrays, parameters, refused, request

SOON_S = 30
#: Iterations of the models' loop that take about five milliseconds.
ITERATIONS = 5_000

DEVICES = """
[devices.cpu]
price_per_hour = 1.0
[devices."cpu:cheap"]
provider = "CPUExecutionProvider"
isolation = "in-process"
price_per_hour = 0.01
[devices."cpu:pair"]
provider = "CPUExecutionProvider"
isolation = "in-process"
instances = 2
price_per_hour = 2.0
"""
ON_CPU = 'max_batch_size: 8 parameters { key: "turnout.devices" value { string_value: "cpu" } }'
#: The config.pbtxt of each model; all are slow identities of float32 (batch, n).
CONFIGURATIONS = {
    "plain": "max_batch_size: 8",
    "preferring": ON_CPU + "dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 60000000 }",
    "delayed": ON_CPU + "dynamic_batching { max_queue_delay_microseconds: 200000 }",
    "unbatched": ON_CPU + 'parameters { key: "turnout.latency_target_us" value { string_value: "1" } }',
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RunningServer]]:
    """Returns the server of a transport, which the tests of this module share; its models have profiles."""
    root, config = tmp_path_factory.mktemp("queues"), tmp_path_factory.mktemp("config") / "turnout.toml"
    config.write_text(DEVICES)
    for name, configuration in CONFIGURATIONS.items():
        models.save(root, name, models.lazy(ITERATIONS), configuration=configuration)
    models.save(root, "slow", models.countdown())
    models.save(root, "single", models.countdown(), configuration="instance_group { kind: KIND_CPU count: 1 }")
    flags = [f"--config={config}", "--profile-budget-s=20"]
    with ExitStack() as stack:
        yield cache(lambda transport: stack.enter_context(running(root, *flags, transport=transport)))


@pytest.fixture
def server(servers: Callable[[str], RunningServer], transport: str) -> RunningServer:
    return servers(transport)


def row(width: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.arange(width, dtype=np.float32).reshape(1, width)}


def send(server: RunningServer, model: str, inputs: dict[str, np.ndarray], **own_parameters: str | int) -> Any:
    """Starts a request, on the device `cpu` unless the parameters name another."""
    return server.stub.ModelInfer.future(request(model, inputs, parameters={"device": "cpu", **own_parameters}), timeout=SOON_S)


def test_urgent_requests_overtake_others_while_the_device_is_busy(server: RunningServer) -> None:
    finished: SimpleQueue[Any] = SimpleQueue()
    with busy(server) as slow:
        calls = [send(server, "plain", row(width), priority=priority) for width, priority in ((1, 3), (2, 1), (3, 2))]
        for call in calls:
            call.add_done_callback(finished.put)
        wait_for_in_flight(server, 4, slow)
    order = [arrays(finished.get(timeout=SOON_S).result())["y"].shape[1] for _ in calls]
    assert order == [2, 3, 1]


def test_the_answers_of_a_stream_keep_their_order_despite_priorities(server: RunningServer) -> None:
    requests = [
        request("plain", row(1 + number), id=str(number), parameters={"device": "cpu", "priority": 6 - number})
        for number in range(6)
    ]
    with busy(server) as slow:
        answers = server.stub.ModelStreamInfer(iter(requests), timeout=SOON_S)
        wait_for_in_flight(server, 7, slow)
    got = [answer.infer_response for answer in answers]
    assert [answer.id for answer in got] == [str(number) for number in range(6)]
    queued_us = [int(parameters(answer)["queue_us"]) for answer in got]
    assert queued_us == sorted(queued_us, reverse=True)  # the last request ran first


def test_a_request_that_cannot_meet_its_deadline_is_refused_at_once_with_the_predicted_time(server: RunningServer) -> None:
    before = runs_of(server, "plain")
    with refused("RESOURCE_EXHAUSTED", "device 'cpu' would take at least", "ms (predicted", "and the deadline is in"):
        send(server, "plain", row(), timeout=1000).result()
    call = send(server, "plain", row(), timeout=1000)
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ("grpc-retry-pushback-ms", "-1") in call.trailing_metadata()
    assert runs_of(server, "plain") == before


def test_a_preferred_batch_runs_as_soon_as_it_is_complete(server: RunningServer) -> None:
    calls = [send(server, "preferring", row()) for _ in range(4)]
    answers = [parameters(call.result()) for call in calls]  # long before the delay ends
    assert {answer["batch_size"] for answer in answers} == {4}


def test_an_incomplete_batch_waits_for_the_queue_delay(server: RunningServer) -> None:
    calls = [send(server, "delayed", row()) for _ in range(2)]
    answers = [parameters(call.result()) for call in calls]
    assert {answer["batch_size"] for answer in answers} == {2}
    assert max(int(answer["queue_us"]) for answer in answers) >= 200_000


@pytest.mark.parametrize(("model", "concurrent"), [("slow", True), ("single", False)])
def test_a_models_instances_limit_its_concurrent_runs_on_a_device(server: RunningServer, model: str, concurrent: bool) -> None:
    calls = [send(server, model, {"n": np.array(200_000)}, device="cpu:pair") for _ in range(2)]
    first, second = sorted((parameters(call.result()) for call in calls), key=lambda answer: int(answer["queue_us"]))
    assert (int(second["queue_us"]) < int(first["compute_us"]) / 2) is concurrent


def test_a_request_that_is_too_large_for_a_run_is_split_and_answered_as_a_whole(server: RunningServer) -> None:
    before = runs_of(server, "unbatched")
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    answer = send(server, "unbatched", {"x": x}).result()
    np.testing.assert_array_equal(arrays(answer)["y"], x)
    assert parameters(answer)["batch_size"] == 1
    until_s = time.monotonic() + SOON_S
    while runs_of(server, "unbatched") < before + 8:
        assert time.monotonic() < until_s
    assert runs_of(server, "unbatched") == before + 8


def test_the_objective_cost_selects_the_cheapest_device(server: RunningServer) -> None:
    before = metric(server, "turnout_routes_total", model="plain", device="cpu:cheap", reason="cheapest-in-time")
    answer = parameters(send(server, "plain", row(), device="auto", objective="cost").result())
    assert (answer["device"], answer["route_reason"]) == ("cpu:cheap", "cheapest-in-time")
    assert int(answer["predicted_us"]) > 0
    until_s = time.monotonic() + SOON_S
    while metric(server, "turnout_routes_total", model="plain", device="cpu:cheap", reason="cheapest-in-time") == before:
        assert time.monotonic() < until_s
    assert metric(server, "turnout_prediction_ratio_count", model="plain", device="cpu:cheap") > 0
