"""Who gets in, as clients of a real server see it (rows 113 to 118 of the fault table), and links in repositories (row 61)."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from tests import models
from tests.certificates import Authority
from tests.servers import TRANSPORTS, Process, RunningServer, running
from tests.wire import arrays, refused, request

X = {"x": np.zeros((1, 1), np.float32)}
INFER, READ, CONTROL = (f"{role}-0123456789abcdef" for role in ("infer", "read", "control"))
TOKENS = f"infer,read {INFER}\nread {READ}\ncontrol {CONTROL}\n"
QUIET = pb.LogSettingsRequest()
QUIET.settings["log_info"].bool_param = False


def bearing(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def listed(server: RunningServer, metadata: tuple[tuple[str, str], ...] = ()) -> list[str]:
    """The services that reflection shows."""
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = stub.ServerReflectionInfo(iter([question]), timeout=10, metadata=metadata)
    return [service.name for answer in answers for service in answer.list_services_response.service]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.save(tmp_path / "models", "adds", models.add_constant(1))
    return tmp_path / "models"


@pytest.fixture
def guarded(repository: Path, tmp_path: Path, transport: str) -> Iterator[RunningServer]:
    """A server with tokens that allows loads."""
    (tmp_path / "tokens").write_text(TOKENS)
    flags = [f"--tokens={tmp_path / 'tokens'}", "--model-control-mode=explicit", "--load-model=*"]
    with running(repository, *flags, transport=transport) as server:
        yield server


def test_113_tokens_are_asked_of_every_call_but_those_of_probes(guarded: RunningServer) -> None:
    stub = guarded.stub
    with refused("UNAUTHENTICATED", "send the metadata 'authorization: Bearer TOKEN'"):
        stub.ModelInfer(request("adds", X))
    with refused("UNAUTHENTICATED"):
        list(stub.ModelStreamInfer(iter([request("adds", X)])))
    with refused("UNAUTHENTICATED"):
        listed(guarded)
    with refused("PERMISSION_DENIED", "needs a token of role 'infer'; this one has read"):
        stub.ModelInfer(request("adds", X), metadata=bearing(READ))
    assert arrays(stub.ModelInfer(request("adds", X), metadata=bearing(INFER)))["y"].item() == 1
    assert len(list(stub.ModelStreamInfer(iter([request("adds", X)]), metadata=bearing(INFER)))) == 1
    assert listed(guarded, bearing(READ))
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert guarded.health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_113_loads_and_changes_of_settings_need_a_token_of_role_control(guarded: RunningServer) -> None:
    stub = guarded.stub
    for call, message in [
        (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name="adds")),
        (stub.LogSettings, QUIET),
    ]:
        with refused("UNAUTHENTICATED"):
            call(message)
        with refused("PERMISSION_DENIED", "control"):
            call(message, metadata=bearing(READ))
        call(message, metadata=bearing(CONTROL))
    assert not stub.LogSettings(pb.LogSettingsRequest(), metadata=bearing(READ)).settings["log_info"].bool_param
    with refused("NOT_FOUND"):
        stub.ModelInfer(request("adds", X), metadata=bearing(INFER))


def test_113_a_large_message_without_a_token_is_refused_before_it_is_read(guarded: RunningServer) -> None:
    large = request("adds", {"x": np.zeros((1, 8 << 20), np.float32)})
    with refused("UNAUTHENTICATED"):
        guarded.stub.ModelInfer(large, timeout=20)


def test_113_tokens_are_renewed_without_a_restart_and_never_logged(guarded: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    new = "renewed-0123456789abcdef"
    file.write_text(f"nonsense {new}")
    guarded.process.wait_for(r"ERROR .*tokens could not be renewed, and the earlier ones stay in force: line 1")
    guarded.stub.ModelInfer(request("adds", X), metadata=bearing(INFER))
    file.write_text(f"infer {new}\n")
    guarded.process.wait_for("tokens are renewed")
    guarded.stub.ModelInfer(request("adds", X), metadata=bearing(new))
    with refused("UNAUTHENTICATED"):
        guarded.stub.ModelInfer(request("adds", X), metadata=bearing(INFER))
    guarded.process.signal(signal.SIGTERM)
    assert guarded.process.wait() == 0
    assert not [token for token in (INFER, READ, CONTROL, new) if token in guarded.process.log]


def test_113_without_tokens_log_and_trace_settings_are_read_only(repository: Path, transport: str) -> None:
    with running(repository, transport=transport) as server:
        assert server.stub.LogSettings(pb.LogSettingsRequest()).settings["log_info"].bool_param
        with refused("UNIMPLEMENTED", "--allow-control"):
            server.stub.LogSettings(QUIET)
        trace = pb.TraceSettingRequest()
        trace.settings["trace_rate"].value.append("1")
        with refused("UNIMPLEMENTED", "--allow-control"):
            server.stub.TraceSetting(trace)
    with running(repository, "--allow-control", transport=transport) as server:
        assert not server.stub.LogSettings(QUIET).settings["log_info"].bool_param


def test_114_reflection_can_be_switched_off(repository: Path, transport: str) -> None:
    with running(repository, "--no-reflection", transport=transport) as server, refused("UNIMPLEMENTED"):
        listed(server)


@pytest.mark.parametrize("mutual", [False, True], ids=["115 TLS", "116 mutual TLS"])
def test_115_116_a_server_with_certificates_serves_whom_it_should_and_renews_them(
    repository: Path, tmp_path: Path, transport: str, mutual: bool
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    client = authority.issue("client")
    flags = [f"--tls-certificate={certificate}", f"--tls-key={key}"]
    if mutual:
        flags.append(f"--tls-client-ca={authority.certificate}")
    process = Process(
        f"--model-repository={repository}",
        "--grpc-port=0",
        "--metrics-port=0",
        "--drain-delay-s=0",
        *flags,
        *TRANSPORTS[transport],
    )
    try:
        port = process.wait_for(r"gRPC on 127\.0\.0\.1:(\d+)")[1]
        process.wait_for("model adds version 1 is ready")
        assert _seen(port, authority.certificate, client) == 1
        assert _seen(port, authority.certificate, None) == ("UNAVAILABLE" if mutual else 1)
        assert _seen(port, None, None) == "UNAVAILABLE"
        renewed = Authority(tmp_path)
        renewed.issue("server")
        process.wait_for("TLS certificates are renewed")
        assert _seen(port, renewed.certificate, renewed.issue("client")) == 1
    finally:
        process.end()


def _seen(port: str, roots: Path | None, identity: tuple[Path, Path] | None) -> object:
    """What a client gets over a new connection: the model's answer, or a status."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    if roots is None:
        channel = grpc.insecure_channel(f"localhost:{port}", options)
    else:
        chain, key = (path.read_bytes() for path in identity) if identity else (None, None)
        channel = grpc.secure_channel(
            f"localhost:{port}", grpc.ssl_channel_credentials(roots.read_bytes(), key, chain), options
        )
    with channel:
        try:
            return arrays(Stub(channel).ModelInfer(request("adds", X), timeout=10))["y"].item()
        except grpc.RpcError as error:
            return cast(grpc.Call, error).code().name


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--tls-certificate=x"], "--tls-key is missing"),
        (["--tls-key=x"], "--tls-certificate is missing"),
        (["--tls-client-ca=x"], "--tls-client-ca needs TLS"),
        (["--tls-certificate=/nowhere.pem", "--tls-key=/nowhere.key"], "TLS: /nowhere.key cannot be read: No such file"),
        (["--tokens=/nowhere"], "--tokens: /nowhere cannot be read: No such file"),
        (["--tokens=/dev/null"], "--tokens: /dev/null: it has no tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_117_files_that_cannot_be_used_keep_the_server_from_starting(repository: Path, flags: list[str], reason: str) -> None:
    process = Process(f"--model-repository={repository}", "--grpc-port=0", "--metrics-port=0", *flags)
    assert process.wait() in (1, 2)
    assert reason in process.log
    assert "Traceback" not in process.log


def test_118_the_metrics_port_has_an_address_of_its_own_and_open_ports_are_warned_of(repository: Path) -> None:
    flags = ["--grpc-port=0", "--metrics-port=0", "--host=127.0.0.1", "--metrics-host=0.0.0.0"]
    process = Process(f"--model-repository={repository}", *flags)
    try:
        process.wait_for(r"gRPC on 127\.0\.0\.1:\d+, metrics on 0\.0\.0\.0:\d+")
        assert process.log.count("WARNING") == 1
        process.wait_for(r"WARNING .*everybody who reaches 0\.0\.0\.0 sees metrics")
    finally:
        process.end()


@pytest.mark.parametrize("follow", [False, True], ids=["refused", "followed by --follow-links"])
def test_61_links_out_of_a_models_directory(tmp_path: Path, follow: bool) -> None:
    root, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "labels.txt").write_text("secret\nwords")
    labelled = 'output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }'
    for name in ("plain", "labels", "file", "config", "version", "directory"):
        models.save(root, name, models.add_constant(1), configuration="max_batch_size: 8")
    (root / "labels" / "config.pbtxt").write_text(f"max_batch_size: 8 {labelled}")
    (root / "labels" / "labels.txt").symlink_to(elsewhere / "labels.txt")
    _moved_and_linked(root / "file" / "1" / "model.onnx", elsewhere / "blob")
    _moved_and_linked(root / "config" / "config.pbtxt", elsewhere / "config")
    _moved_and_linked(root / "version" / "1", elsewhere / "version")
    _moved_and_linked(root / "directory", elsewhere / "directory")
    expected = {"plain", "version", "directory"} | ({"labels", "file", "config"} if follow else set())
    with running(root, *(["--follow-links"] if follow else [])) as server:
        index = server.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
        reasons = {model.name: model.reason for model in index if model.state != "READY"}
        assert {model.name for model in index if model.state == "READY"} == expected, reasons
        assert all("leads out of its model's directory" in reason for reason in reasons.values())


def _moved_and_linked(path: Path, to: Path) -> None:
    path.rename(to)
    path.symlink_to(to)


@pytest.mark.parametrize("name", ["config.pbtxt", "1/golden.npz", "1/model.onnx"])
def test_63_a_fifo_in_a_model_is_refused_and_holds_up_nothing(tmp_path: Path, name: str) -> None:
    models.save(tmp_path, "a", models.add_constant(1))
    models.save(tmp_path, "b", models.add_constant(1))
    path = tmp_path / "a" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with running(tmp_path) as server:
        states = {
            model.name: model.reason or model.state for model in server.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
        }
        assert states["a"].endswith(f"{path.name} is not a regular file")
        assert states["b"] == "READY"


def test_76_archives_are_not_opened(tmp_path: Path) -> None:
    models.save(tmp_path, "a", models.add_constant(1))
    for archive in ("bomb.zip", "bomb.tar.gz"):
        (tmp_path / archive).write_bytes(b"PK\x03\x04" + bytes(100))
        (tmp_path / "a" / archive).write_bytes(b"PK\x03\x04" + bytes(100))
    with running(tmp_path) as server:
        assert [model.name for model in server.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models] == ["a"]
        server.stub.ModelInfer(request("a", X))
