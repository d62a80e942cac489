"""The image of the server, built and run as in production. Skipped where buildah and podman aren't installed."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from turnout_proto.methods import Stub

from tests import models
from tests.containers.engine import HARDENED, ROOT, Engine, require
from tests.wire import arrays, request

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CPU, CPU_OCI = "localhost/turnout-test:cpu", "localhost/turnout-test:oci"
MAX_BYTES_OVER_BASE = 230e6


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    require("buildah", "podman")
    engine = Engine(tmp_path_factory.mktemp("turnout-containers"))
    yield engine
    engine.clean()


@pytest.fixture(scope="module")
def base(engine: Engine) -> str:
    return engine.base()


@pytest.fixture(scope="module")
def image(engine: Engine, base: str) -> str:
    engine.build(base, CPU, "--format=docker")
    return CPU


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    models.save(root, "add_sub", models.add_sub(), configuration="max_batch_size: 8")
    for path in (root, *root.rglob("*")):
        path.chmod(0o755)  # the container's user isn't ours
    return root


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def infer(port: int) -> None:
    ones = {"INPUT0": np.ones((2, 16), np.float32), "INPUT1": np.ones((2, 16), np.float32)}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = Stub(channel).ModelInfer(request("add_sub", ones), timeout=10)
    np.testing.assert_array_equal(arrays(answer)["OUTPUT0"], np.full((2, 16), 2, np.float32))


class Ports:
    """Two free ports, as flags of the server and as podman's variables."""

    def __init__(self) -> None:
        self.grpc, self.monitoring = free_port(), free_port()
        self.flags = [f"--grpc-port={self.grpc}", f"--metrics-port={self.monitoring}"]
        self.variables = [f"--env=TURNOUT_GRPC_PORT={self.grpc}", f"--env=TURNOUT_METRICS_PORT={self.monitoring}"]


def test_the_image_says_what_orchestrators_ask(engine: Engine, image: str) -> None:
    found = engine.image(image)
    configured = found["Config"]
    assert configured["User"] == "10001:10001"  # runAsNonRoot can't judge a name
    assert configured["StopSignal"] in ("SIGTERM", "15")
    assert configured["Entrypoint"] == ["turnout-server"]
    assert set(configured["ExposedPorts"]) == {"8001/tcp", "8002/tcp"}
    assert configured["Labels"]["org.opencontainers.image.version"] == "9.9"
    check = found.get("HealthCheck") or found["Healthcheck"]
    assert check["Test"] == ["CMD", "turnout-server", "health"]


def test_the_image_is_small_and_has_no_installer(engine: Engine, base: str, image: str) -> None:
    added = engine.image(image)["Size"] - engine.image(base)["Size"]
    assert added <= MAX_BYTES_OVER_BASE, f"{added / 1e6:.0f} MB over its base"
    files = engine.files(image)
    assert "/opt/turnout/bin/turnout-server" in files
    assert not [file for file in files if file.endswith(("/site-packages/pip", "/bin/pip")) or "/.cache/" in file]


def test_a_hardened_container_of_any_user_infers_is_healthy_and_drains(engine: Engine, image: str, repository: Path) -> None:
    ports = Ports()
    flags = [*HARDENED, *ports.variables, "--user=54321:0", f"--volume={repository}:/models:ro"]
    with engine.container(image, flags=flags) as container:
        container.wait_for_readiness(ports.monitoring)
        infer(ports.grpc)
        assert container.ask("exec", "sh", "-c", "touch /models/x /tmp/x").returncode != 0
        health = container.ask("exec", "turnout-server", "health")
        assert (health.returncode, health.stdout) == (0, "ready\n")
        status, took_s = container.stop()
        assert (status, took_s < 10) == (0, True)
        assert "stopped" in container.log


def test_health_follows_a_port_in_the_servers_flags(engine: Engine, image: str, repository: Path) -> None:
    ports = Ports()
    with engine.container(image, *ports.flags, flags=[*HARDENED, f"--volume={repository}:/models:ro"]) as container:
        container.wait_for_readiness(ports.monitoring)
        assert container.ask("exec", "turnout-server", "health").returncode == 0
        unhealthy = container.ask("exec", "turnout-server", "health", f"--metrics-port={ports.monitoring - 1}")
        assert (unhealthy.returncode, "no server answers on" in unhealthy.stderr) == (1, True)


def test_the_check_of_the_image_in_dockers_format_is_run_by_the_engine(engine: Engine, image: str, repository: Path) -> None:
    ports = Ports()
    flags = [*HARDENED, *ports.variables, f"--volume={repository}:/models:ro"]
    with engine.container(image, flags=flags) as container:
        container.wait_for_readiness(ports.monitoring)
        assert container.is_healthy()


def test_an_oci_image_is_checked_where_the_check_is_given_to_the_engine(engine: Engine, base: str, repository: Path) -> None:
    engine.build(base, CPU_OCI, "--format=oci")
    ports = Ports()
    flags = [*HARDENED, *ports.variables, f"--volume={repository}:/models:ro", "--health-cmd=turnout-server health"]
    with engine.container(CPU_OCI, flags=flags) as container:
        container.wait_for_readiness(ports.monitoring)
        infer(ports.grpc)
        assert container.is_healthy()


@pytest.mark.parametrize("delay_s", [0.0, 0.2, 0.5])
def test_a_container_that_is_stopped_in_its_first_moments_stops(
    engine: Engine, image: str, repository: Path, delay_s: float
) -> None:
    ports = Ports()
    flags = [*HARDENED, *ports.variables, "--env=TURNOUT_DRAIN_DELAY_S=0", f"--volume={repository}:/models:ro"]
    with engine.container(image, flags=flags) as container:
        time.sleep(delay_s)
        status, took_s = container.stop()
        assert status == 0
        assert took_s < 2


def test_the_server_works_within_a_memory_limit_and_sees_it(engine: Engine, image: str, repository: Path) -> None:
    ports = Ports()
    flags = [*HARDENED, *ports.variables, "--memory=256m", f"--volume={repository}:/models:ro"]
    with engine.container(image, flags=flags) as container:
        container.wait_for_readiness(ports.monitoring)
        infer(ports.grpc)
        told = container.ask("exec", "turnout-server", "doctor", "--json")
        assert json.loads(told.stdout)["host"]["memory_limit_bytes"] == 256 * 2**20


def test_the_server_takes_the_arguments_of_kserves_runtime(engine: Engine, image: str, repository: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML isn't installed here: make install")
    runtime = yaml.safe_load((ROOT / "deploy" / "kserve" / "runtime-cpu.yaml").read_text())
    (container,) = runtime["spec"]["containers"]
    arguments = [argument.replace("{{.Name}}", "add_sub") for argument in container["args"]]
    ports = Ports()
    flags = [*HARDENED, *ports.variables, "--env=TURNOUT_DRAIN_DELAY_S=0", f"--volume={repository}/add_sub:/mnt/models:ro"]
    with engine.container(image, *arguments, flags=flags) as started:
        started.wait_for_readiness(ports.monitoring)
        infer(ports.grpc)


def test_an_image_without_models_says_what_to_mount(engine: Engine, image: str) -> None:
    with engine.container(image, "--model-repository=/nowhere", flags=HARDENED) as container:
        assert container.ask("wait").stdout.strip() == "2"
        assert "--model-repository: /nowhere: it is not a directory" in container.log
