"""The compose file: valid, hardened, and published on this machine only."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.tools import ROOT, tool

FILE = ROOT / "deploy" / "compose.yaml"


def services() -> dict[str, dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML isn't installed here: make install")
    found: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
    return found


def check(file: Path) -> int:
    """The exit status of docker-compose for a file."""
    command = [tool("docker-compose", "docker-compose"), "-f", str(file), "--profile", "load", "config", "-q"]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_the_file_is_valid_and_a_mistake_is_noticed(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text().replace("restart: unless-stopped", "restrat: unless-stopped"))
    assert (check(FILE), check(wrong)) == (0, 1)


def test_every_folder_that_is_mounted_exists() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (FILE.parent / source).is_dir(), f"{name}: {source}"


def test_every_port_is_published_on_the_loopback_only() -> None:
    ports = [port for service in services().values() for port in service["ports"]]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_of_others_have_a_version_and_ours_a_target_of_the_dockerfile() -> None:
    targets = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for name, service in services().items():
        if "build" in service:
            assert service["build"]["target"] in targets
        else:
            assert re.fullmatch(r"\S+/\S+:v?\d+\.\d+\.\d+", service["image"]), name


def test_the_server_has_time_to_drain_and_only_locust_is_optional() -> None:
    found = services()
    assert int(found["server"]["stop_grace_period"].removesuffix("s")) > 31
    assert {name: service["profiles"] for name, service in found.items() if "profiles" in service} == {"locust": ["load"]}
