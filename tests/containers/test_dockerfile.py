"""The Dockerfile and what it runs, without building anything."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.tools import tool as tool_of_ours

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
REQUIREMENTS, BUILD_IMAGE = ROOT / "tools" / "requirements", ROOT / "tools" / "build-image"


def stage(name: str) -> str:
    """The instructions of a stage."""
    found = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert found, f"no stage is called {name}"
    return found[1]


def requirements(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(REQUIREMENTS), str(ROOT / "pyproject.toml"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing() -> None:
    subprocess.run([tool_of_ours("hadolint"), str(ROOT / "Dockerfile")], check=True)


@pytest.mark.parametrize("name", ["cpu", "gpu", "export", "loadtest"])
def test_each_image_runs_as_a_numeric_user_and_names_itself(name: str) -> None:
    assert "\nUSER 10001:10001\n" in stage(name)
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in stage(name)


@pytest.mark.parametrize("name", ["cpu", "gpu", "export", "loadtest"])
def test_code_is_copied_after_what_it_depends_on(name: str) -> None:
    copies = re.findall(r"^COPY --from=(\S+)", stage(name), re.MULTILINE)
    assert copies == [f"{name}-dependencies", "code"]
    assert not re.search(r"^COPY (?!--from)(?!constraints|tools)", stage(f"{name}-dependencies"), re.MULTILINE)


@pytest.mark.parametrize("extras", ["cpu", "gpu", "cpu,export"])
def test_the_requirements_are_those_of_the_extras_and_of_the_server(extras: str) -> None:
    listed = requirements(extras).stdout.splitlines()
    assert any(line.startswith("grpcio>=") for line in listed)
    assert any(line.startswith("onnxruntime-gpu" if extras == "gpu" else "onnxruntime>=") for line in listed)
    assert any(line.startswith("torch>=") for line in listed) == ("export" in extras)


def test_an_extra_that_does_not_exist_is_named() -> None:
    done = requirements("cpu,exprot")
    assert (done.returncode, "has no extra 'exprot'; it has cpu, " in done.stderr) == (1, True)


# tools/build-image


def tool(folder: Path, name: str, answers: str) -> None:
    """A program that records what it was asked, and does what `answers` says."""
    program = folder / name
    program.write_text(f'#!/bin/sh\necho {name} "$@" >> {folder}/asked\n{answers}\n')
    program.chmod(0o755)


def build_image(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    basics = {name: os.path.dirname(path) for name in ("sed", "git") if (path := shutil.which(name))}
    for name, directory in basics.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(Path(directory) / name)
    (folder / "dirname").unlink(missing_ok=True)
    (folder / "dirname").symlink_to(shutil.which("dirname") or "")
    environment = {"PATH": str(folder), **variables}
    return subprocess.run(
        ["/bin/sh", str(BUILD_IMAGE), *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_docker_is_used_where_its_engine_answers(tmp_path: Path) -> None:
    tool(tmp_path, "docker", "exit 0")
    tool(tmp_path, "podman", "exit 0")
    assert build_image(tmp_path, "gpu", "turnout:gpu", "--pull").stdout == "Building turnout:gpu with docker\n"
    _, asked = (tmp_path / "asked").read_text().splitlines()
    assert asked.startswith("docker build --target gpu --tag turnout:gpu --build-arg VERSION=")
    assert asked.endswith(" --pull .")


def test_podman_is_used_where_docker_has_no_engine_and_keeps_the_health_check(tmp_path: Path) -> None:
    tool(tmp_path, "docker", "exit 1")
    tool(tmp_path, "podman", "exit 0")
    assert build_image(tmp_path, "cpu", "t:1", BASE="my/base").stdout == "Building t:1 with podman\n"
    asked = (tmp_path / "asked").read_text().splitlines()[-1]
    assert asked.startswith("podman build --target cpu --tag t:1 ")
    assert "--build-arg BASE=my/base --layers --format docker ." in asked


def test_buildah_alone_is_enough_and_a_tool_can_be_named(tmp_path: Path) -> None:
    tool(tmp_path, "buildah", "exit 0")
    assert build_image(tmp_path, "cpu", "t:1").returncode == 0
    tool(tmp_path, "podman", "exit 0")
    assert "with buildah" in build_image(tmp_path, "cpu", "t:1", IMAGE_TOOL="buildah").stdout


@pytest.mark.parametrize(("variables", "named"), [({}, "none of docker"), ({"IMAGE_TOOL": "kaniko"}, "kaniko")])
def test_without_a_tool_the_error_says_what_to_install(tmp_path: Path, variables: dict[str, str], named: str) -> None:
    done = build_image(tmp_path, "cpu", "t:1", **variables)
    assert done.returncode == 1
    assert named in done.stderr
    assert "install one of them" in done.stderr
