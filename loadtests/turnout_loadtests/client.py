"""Requests to a server outside the measurement: is it ready, what does a model take, does a device answer."""

import ipaddress
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import grpc
from turnout_proto import inference_pb2 as pb
from turnout_proto import model_config_pb2 as mc
from turnout_proto.methods import Stub

from turnout_loadtests.errors import LoadTestError

QUESTION_TIMEOUT_S = 10.0
FIRST_INFERENCE_TIMEOUT_S = 60.0  # it may create a session
TEMPORARY = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}

#: Channel options without a limit on message sizes.
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
#: The same for a server on this machine: a proxy in the environment isn't meant for it.
LOCAL = [*UNLIMITED, ("grpc.enable_http_proxy", 0)]


def connect(host: str, service_config: str = "") -> Stub:
    """A stub over a channel of its own, with no limit on message sizes. A proxy in the environment isn't used on loopback.

    Args:
        host: HOST:PORT, or several servers as `ipv4:HOST:PORT,HOST:PORT`.
        service_config: gRPC's service config as JSON: how calls are spread over several servers and repeated.
    """
    config = [("grpc.service_config", service_config)] if service_config else []
    options = LOCAL if is_loopback(host) else UNLIMITED
    return Stub(grpc.insecure_channel(host, [*options, ("grpc.use_local_subchannel_pool", 1), *config]))


def is_loopback(address: str) -> bool:
    """Whether an address is on this machine for certain: `localhost:8001`, `127.0.0.1:8001`, `[::1]:8001`."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_service_config(path: str) -> str:
    """The text of a file with a service config; empty without a file.

    Raises:
        LoadTestError: it can't be read, or isn't a JSON object: gRPC would go on without it.
    """
    if not path:
        return ""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if not isinstance(json.loads(text), dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise LoadTestError(f"--service-config {path}: {getattr(error, 'strerror', None) or error}") from None
    return text


def wait_until_ready(
    stub: Stub, timeout_s: float, tick: Callable[[], None] = lambda: None, check: Callable[[], None] = lambda: None
) -> None:
    """Returns once the server is ready; `tick` and `check` are called about five times a second meanwhile.

    Raises:
        LoadTestError: the server isn't ready after `timeout_s`, or `check` raised it because waiting makes no sense any more.
    """
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        tick()
        check()
        try:
            if stub.ServerReady(pb.ServerReadyRequest(), timeout=QUESTION_TIMEOUT_S).ready:
                return
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise refused(error) from error
        time.sleep(0.2)
    raise LoadTestError(f"the server wasn't ready within {timeout_s:.0f} s")


def server_name(stub: Stub) -> str:
    """The server's name and version, as it states them."""
    try:
        answer = stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=QUESTION_TIMEOUT_S)
    except grpc.RpcError as error:
        raise refused(error) from error
    return f"{answer.name} {answer.version}"


def model_metadata(stub: Stub, model: str) -> pb.ModelMetadataResponse:
    """The inputs and outputs of a model; of the first ready model that the server lists if the name is empty.

    Inputs that a request may leave out aren't among them.
    """
    try:
        name = model or _first_ready_model(stub)
        answer: pb.ModelMetadataResponse = stub.ModelMetadata(pb.ModelMetadataRequest(name=name), timeout=QUESTION_TIMEOUT_S)
    except grpc.RpcError as error:
        raise refused(error) from error
    optional = _optional_inputs(stub, name)
    for tensor in [tensor for tensor in answer.inputs if tensor.name in optional]:
        answer.inputs.remove(tensor)
    return answer


def model_names(stub: Stub) -> list[str]:
    """The models that are ready."""
    try:
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), timeout=QUESTION_TIMEOUT_S)
    except grpc.RpcError as error:
        raise refused(error) from error
    return sorted({str(model.name) for model in index.models})


def model_config(stub: Stub, model: str) -> mc.ModelConfig | None:
    """The model's configuration; None from a server that doesn't have the call, or refuses it."""
    try:
        answer = stub.ModelConfig(pb.ModelConfigRequest(name=model), timeout=QUESTION_TIMEOUT_S)
    except grpc.RpcError:
        return None
    return cast("mc.ModelConfig", answer.config)


def devices_of(stub: Stub, model: str) -> list[str]:
    """The devices that a model is loaded on, from the instance groups of its configuration, as Turnout names them."""
    config = model_config(stub, model)
    groups = config.instance_group if config else ()
    return [group.name.removeprefix(f"{model}_") for group in groups if group.name.startswith(f"{model}_")]


def why_unavailable(stub: Stub, request: pb.ModelInferRequest) -> str | None:
    """Sends one inference; returns the server's reason if the model can't run on the device, None if it can.

    A device that is busy or slow counts as available: its failures are part of the measurement.

    Raises:
        LoadTestError: the request itself is wrong.
    """
    try:
        stub.ModelInfer(request, timeout=FIRST_INFERENCE_TIMEOUT_S)
    except grpc.RpcError as error:
        if error.code() in TEMPORARY:
            return None
        if error.code() != grpc.StatusCode.FAILED_PRECONDITION:
            raise refused(error) from error
        device = request.parameters["device"].string_param
        return str(error.details()).removeprefix(f"device '{device}' is not available: ")
    return None


def text(parameters: Mapping[str, pb.InferParameter], key: str) -> str:
    """A string parameter of an answer; empty if the server doesn't send it."""
    return parameters[key].string_param if key in parameters else ""  # reading a missing key of a protobuf map would add it


def number(parameters: Mapping[str, pb.InferParameter], key: str) -> int:
    """An integer parameter of an answer; 0 if the server doesn't send it."""
    return parameters[key].int64_param if key in parameters else 0


def refused(error: grpc.RpcError) -> LoadTestError:
    """The error that the user sees when a request outside the measurement fails."""
    return LoadTestError(f"asking the server failed with {reason(error)}")


def reason(error: grpc.RpcError) -> str:
    """The status and its details as one line."""
    return f"{error.code().name}: {error.details()}"


def _optional_inputs(stub: Stub, model: str) -> set[str]:
    """The inputs that have a value in the model itself; none where the server doesn't tell, as KServe's."""
    try:
        answer = stub.ModelConfig(pb.ModelConfigRequest(name=model), timeout=QUESTION_TIMEOUT_S)
    except grpc.RpcError:
        return set()
    return {tensor.name for tensor in answer.config.input if tensor.optional}


def _first_ready_model(stub: Stub) -> str:
    names = model_names(stub)
    if not names:
        raise LoadTestError("the server has no ready model; name one with --model")
    return names[0]
