"""Tests of health checks, reflection and metrics."""

import urllib.error
import urllib.request
from collections.abc import Iterable

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS, SERVICE

from tests.servers import RunningServer
from tests.wire import refused, request

HEALTH = "grpc.health.v1.Health"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

ROW = {"INPUT": np.ones((3, 2), np.float32)}


@pytest.mark.parametrize(
    ("service", "status"), [("", SERVING), (SERVICE, SERVING), ("add_sub", SERVING), ("broken", NOT_SERVING)]
)
def test_the_server_and_each_model_have_a_health_status(server: RunningServer, service: str, status: int) -> None:
    health_request = health_pb2.HealthCheckRequest(service=service)
    assert server.health.Check(health_request).status == status
    watch = server.health.Watch(health_request, timeout=10)
    assert next(watch).status == status
    watch.cancel()


def test_the_health_of_an_unknown_service_is_unknown(server: RunningServer) -> None:
    health_request = health_pb2.HealthCheckRequest(service="nowhere")
    with refused("NOT_FOUND", "'nowhere'"):
        server.health.Check(health_request)
    with refused("NOT_FOUND", "'add_subs'", "did you mean 'add_sub'?"):
        server.health.Check(health_pb2.HealthCheckRequest(service="add_subs"))
    watch = server.health.Watch(health_request, timeout=10)
    assert next(watch).status == SERVICE_UNKNOWN
    watch.cancel()


@pytest.mark.parametrize("rpc", ["Check", "Watch"])
def test_a_malformed_health_request_is_refused(server: RunningServer, rpc: str) -> None:
    path = f"/grpc.health.v1.Health/{rpc}"
    with refused("INVALID_ARGUMENT", "HealthCheckRequest"):
        if rpc == "Check":
            server.channel.unary_unary(path, bytes, bytes)(b"\xff", timeout=10)
        else:
            list(server.channel.unary_stream(path, bytes, bytes)(b"\xff", timeout=10))


def test_reflection_lists_the_public_services(server: RunningServer) -> None:
    database = ProtoReflectionDescriptorDatabase(server.channel)
    assert set(database.get_services()) == {SERVICE, HEALTH}


def reflect(server: RunningServer, version: str, *symbols: str) -> list[reflection_pb2.ServerReflectionResponse]:
    """The answers of one version of the reflection service; the messages of both are the same on the wire."""
    call = server.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    questions = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
    return list(call(iter(questions), timeout=10))


VERSIONS = pytest.mark.parametrize("version", ["v1", "v1alpha"])


@VERSIONS
def test_reflection_finds_every_method_and_message(server: RunningServer, version: str) -> None:
    symbols = [f"{SERVICE}.{name}" for name in METHODS] + ["inference.ModelConfig", SERVICE]
    symbols += [HEALTH, f"{HEALTH}.Check", f"{HEALTH}.Watch", "grpc.health.v1.HealthCheckRequest"]
    answers = reflect(server, version, *symbols)
    assert [answer.WhichOneof("message_response") for answer in answers] == ["file_descriptor_response"] * len(symbols)


@VERSIONS
@pytest.mark.parametrize("symbol", ["nowhere.Nothing", f"{SERVICE}.Nothing", "grpc.channelz.v1.Channelz", ""])
def test_reflection_reports_unknown_symbols(server: RunningServer, version: str, symbol: str) -> None:
    (answer,) = reflect(server, version, symbol)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_the_health_service_can_be_called_by_reflection_alone(server: RunningServer) -> None:
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(server.channel))
    method = pool.FindServiceByName(HEALTH).FindMethodByName("Check")
    question, answer = (message_factory.GetMessageClass(each) for each in (method.input_type, method.output_type))
    call = server.channel.unary_unary(f"/{HEALTH}/Check", question.SerializeToString, answer.FromString)
    assert call(question(service="add_sub"), timeout=10).status == SERVING


def get(server: RunningServer, path: str) -> tuple[int, str]:
    """The status and body of an HTTP response."""
    try:
        with urllib.request.urlopen(server.monitoring + path, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metrics(server: RunningServer) -> dict[str, Metric]:
    """The server's metric families, by name."""
    status, text = get(server, "/metrics")
    assert status == 200
    families: Iterable[Metric] = text_string_to_metric_families(text)
    return {family.name: family for family in families}


def total(families: dict[str, Metric], family: str, sample: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    samples = families[family].samples if family in families else []
    return sum(s.value for s in samples if s.name == sample and labels.items() <= s.labels.items())


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/else", 404)])
def test_probes_are_answered_over_http(server: RunningServer, path: str, status: int) -> None:
    assert get(server, path)[0] == status


def test_metrics_count_requests_and_failures(server: RunningServer) -> None:
    before = metrics(server)
    for _ in range(5):
        server.stub.ModelInfer(request("fp32_batch", ROW))
    with refused("INVALID_ARGUMENT"):
        server.stub.ModelInfer(request("fp32_batch", {}))
    after = metrics(server)

    def increase(family: str, sample: str, **labels: str) -> float:
        labels["model"] = "fp32_batch"
        return total(after, family, sample, **labels) - total(before, family, sample, **labels)

    while increase("turnout_requests", "turnout_requests_total", device="cpu", version="1") < 5:
        after = metrics(server)  # the server counts an answer just after sending it
    assert increase("turnout_requests", "turnout_requests_total", device="cpu", version="1") == 5
    assert increase("turnout_request_failures", "turnout_request_failures_total", code="INVALID_ARGUMENT") == 1
    for family in ("turnout_request_seconds", "turnout_queue_seconds", "turnout_compute_seconds", "turnout_batch_rows"):
        assert increase(family, f"{family}_count") == 5
        assert increase(family, f"{family}_bucket", le="+Inf") == 5
    assert increase("turnout_batch_rows", "turnout_batch_rows_sum") == 15


def test_requests_that_cannot_be_decoded_are_counted_for_their_model(server: RunningServer) -> None:
    truncated = request("fp32_batch", ROW)
    truncated.raw_input_contents[0] = truncated.raw_input_contents[0][:-1]
    for_unknown_model = request("no such model", ROW, parameters={"objective": "cheap"})
    before = metrics(server)
    for message in (truncated, request("fp32_batch", ROW, parameters={"objective": "cheap"}), for_unknown_model):
        with refused("INVALID_ARGUMENT"):
            server.stub.ModelInfer(message)
    after = metrics(server)
    failures = "turnout_request_failures"
    for model, count in (("fp32_batch", 2), ("unknown", 1)):
        labels = {"model": model, "code": "INVALID_ARGUMENT"}
        assert (
            total(after, failures, f"{failures}_total", **labels) - total(before, failures, f"{failures}_total", **labels)
            == count
        )


def test_111_unknown_model_names_do_not_add_metrics(server: RunningServer) -> None:
    def refuse(names: Iterable[str]) -> None:
        calls = [server.stub.ModelInfer.future(pb.ModelInferRequest(model_name=name)) for name in names]
        assert {call.code() for call in calls} == {grpc.StatusCode.NOT_FOUND}

    refuse(["anything"])
    before = {name: len(family.samples) for name, family in metrics(server).items()}
    refuse(f"made-up-{number}" for number in range(1000))
    after = metrics(server)
    assert {name: len(family.samples) for name, family in after.items()} == before
    failures = "turnout_request_failures"
    assert total(after, failures, f"{failures}_total", model="unknown", code="NOT_FOUND") >= 1001
