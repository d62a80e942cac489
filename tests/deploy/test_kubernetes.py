"""The manifests for Kubernetes and KServe: valid, restricted, and with settings that the server accepts."""

import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from turnout_server import settings_sources
from turnout_server.cli.flags import parsed
from turnout_server.settings import Settings

from tests.deploy.tools import ENVIRONMENT, ROOT, tool

yaml = pytest.importorskip("yaml", reason="PyYAML isn't installed here: make install")

KUBERNETES, KSERVE = ROOT / "deploy" / "kubernetes", ROOT / "deploy" / "kserve"
VERSION = "1.37"  # of Kubernetes
RUNTIMES = sorted(KSERVE.glob("runtime-*.yaml"))


@cache
def rendered(folder: Path) -> str:
    """What `kubectl apply -k` would send."""
    done = subprocess.run(
        [tool("kubectl", "kubernetes-client"), "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # it warns of fields that are deprecated
    return done.stdout


def resources(kind: str) -> list[dict[str, Any]]:
    found = [each for each in yaml.safe_load_all(rendered(KUBERNETES)) if each["kind"] == kind]
    assert len(found) == 2, "one for each pool"
    return found


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod spec and container of each pod that serves: both pools, and KServe's runtimes."""
    for deployment in resources("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        yield deployment["metadata"]["name"], pod, pod["containers"][0]
    for file in RUNTIMES:
        runtime = yaml.safe_load(file.read_text())
        yield file.stem, runtime["spec"], runtime["spec"]["containers"][0]


def settings_of(container: dict[str, Any], monkeypatch: pytest.MonkeyPatch, models: Path) -> Settings:
    """The settings that a server has in this container."""
    for name in list(os.environ):
        if name.startswith("TURNOUT_"):
            monkeypatch.delenv(name)
    for variable in container.get("env", ()):
        monkeypatch.setenv(variable["name"], variable["value"])
    flags = [str(flag).replace("/mnt/models", str(models)).replace("{{.Name}}", "digits") for flag in container.get("args", ())]
    given = any(flag.startswith("--model-repository") for flag in flags)
    return settings_sources.read(parsed(flags if given else [f"--model-repository={models}", *flags]), Settings)


def validate(text: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    file = folder / "manifests.yaml"
    file.write_text(text)
    command = [tool("kubernetes-validate"), "--strict", "-k", VERSION, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_manifests_are_valid(tmp_path: Path) -> None:
    done = validate(rendered(KUBERNETES), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"), [("port: 8001", "prt: 8001"), ("maxSurge", "maxSurg"), ("readOnly: true", "readOnly: 7")]
)
def test_a_mistake_in_the_manifests_is_noticed(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in (text := rendered(KUBERNETES))
    assert validate(text.replace(right, wrong), tmp_path).returncode != 0


def test_the_settings_in_the_manifests_are_ones_that_the_server_accepts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, _, container in pods():
        settings = settings_of(container, monkeypatch, tmp_path)
        assert settings.grpc_options["grpc.max_connection_age_ms"], name


def test_a_pod_has_time_to_drain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    service = yaml.safe_load((KSERVE / "inferenceservice.yaml").read_text())
    for name, pod, container in pods():
        settings = settings_of(container, monkeypatch, tmp_path)
        grace_s = {**service["spec"]["predictor"], **pod}["terminationGracePeriodSeconds"]
        assert grace_s >= 35, name
        assert grace_s > settings.drain_delay_s + settings.drain_timeout_s + 5, name
        readiness = container["readinessProbe"]
        assert settings.drain_delay_s >= readiness["periodSeconds"] * (readiness["failureThreshold"] - 1), name


def test_every_container_is_restricted() -> None:
    for name, pod, container in pods():
        security = {**pod.get("securityContext", {}), **container["securityContext"]}
        assert security["runAsNonRoot"], name
        assert security["runAsUser"] == 10001, name
        assert security["readOnlyRootFilesystem"], name
        assert not security["allowPrivilegeEscalation"], name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container["resources"]["requests"] == container["resources"]["limits"], name


def test_probes_ask_the_ports_that_the_server_listens_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, _, container in pods():
        settings = settings_of(container, monkeypatch, tmp_path)
        assert container["startupProbe"]["grpc"]["port"] == container["readinessProbe"]["grpc"]["port"] == settings.grpc_port, (
            name
        )
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        live = container["livenessProbe"]["httpGet"]
        assert ports.get(live["port"], live["port"]) == settings.metrics_port, name
        assert settings.grpc_port in ports.values(), name


def test_a_service_of_the_same_name_does_not_become_a_setting() -> None:
    for deployment in resources("Deployment"):
        assert deployment["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_each_pool_selects_its_own_pods() -> None:
    labels = {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each in resources("Deployment")}
    selectors = [(each["metadata"]["name"], each["spec"]["selector"]) for each in resources("Service")]
    for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector"), ("Deployment", "selector")):
        selectors += [(each["metadata"]["name"], each["spec"][field]["matchLabels"]) for each in resources(kind)]
    for name, selector in selectors:
        assert [pool for pool, own in labels.items() if selector.items() <= own.items()] == [name]


def test_the_services_have_the_address_of_each_pod() -> None:
    for service in resources("Service"):
        assert service["spec"]["clusterIP"] == "None"


def test_only_the_gpu_pool_asks_for_a_gpu_and_is_ready_only_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, pod, container in pods():
        gpus = container["resources"]["limits"].get("nvidia.com/gpu")
        assert (gpus == "1") == name.endswith("gpu")
        assert bool(pod.get("tolerations")) == name.endswith("gpu")
        assert (settings_of(container, monkeypatch, tmp_path).ready_when == "cuda:0") == name.endswith("gpu")
        assert container["image"] == ("turnout:gpu" if name.endswith("gpu") else "turnout:cpu")


# KServe


def kserve_schema(plural: str) -> dict[str, Any]:
    """KServe's own schema, made strict: an unknown field is an error."""
    file = ENVIRONMENT / "kserve" / f"{plural}.yaml"
    if not file.exists():
        pytest.skip("KServe's schemas aren't here: make deploy-check fetches them")
    (version,) = (each for each in yaml.safe_load(file.read_text())["spec"]["versions"] if each["storage"])
    return strict(version["schema"]["openAPIV3Schema"])


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    made = {
        key: {name: strict(each) for name, each in value.items()}
        if key == "properties"
        else strict(value)
        if key in ("items", "additionalProperties") and isinstance(value, dict)
        else value
        for key, value in schema.items()
    }
    if "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if made.get("properties", {}).get("metadata") == {"type": "object"}:
        made["properties"]["metadata"] = {"type": "object"}  # Kubernetes checks that one itself
    return made


@pytest.mark.parametrize(
    ("plural", "file"),
    [*(("servingruntimes", file) for file in RUNTIMES), ("inferenceservices", KSERVE / "inferenceservice.yaml")],
    ids=lambda each: getattr(each, "stem", ""),
)
def test_kserve_accepts_its_manifests_and_notices_a_mistake(plural: str, file: Path) -> None:
    validator = jsonschema.Draft202012Validator(kserve_schema(plural))
    validator.validate(yaml.safe_load(file.read_text()))
    for right, wrong in (("spec:", "spce:"), ("runAsUser: 10001", "runAsUser: me"), ("minReplicas: 2", "minReplicas: two")):
        if right in file.read_text():
            assert not validator.is_valid(yaml.safe_load(file.read_text().replace(right, wrong, 1))), wrong


def test_kserve_speaks_http2_to_the_port_and_finds_the_metrics() -> None:
    for file in RUNTIMES:
        runtime = yaml.safe_load(file.read_text())
        (port,) = runtime["spec"]["containers"][0]["ports"]
        assert "h2c" in port["name"]  # KServe takes the protocol from the name
        assert runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == "8002"
        assert runtime["spec"]["containers"][0]["name"] == "kserve-container"


def test_the_inference_service_scales_on_metrics_that_exist() -> None:
    service = yaml.safe_load((KSERVE / "inferenceservice.yaml").read_text())
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    queries = [metric["external"]["metric"]["query"] for metric in service["spec"]["predictor"]["autoScaling"]["metrics"]]
    assert "turnout_waiting_requests" in queries[0]
    documented = (ROOT / "docs" / "metrics.md").read_text()
    for query in queries:
        name = query[query.index("turnout_") : query.index("{")]
        assert f"`{name}`" in documented
        assert f'model="{service["metadata"]["name"]}"' in query
