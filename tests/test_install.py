"""A CPU installation takes the CPU build of torch, and goes on where that build can't be had."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
INSTALL_TORCH, QUIETLY = ROOT / "tools" / "install-torch", ROOT / "tools" / "quietly"
REFUSED = "http://127.0.0.1:9/"  # nothing listens on this port
TORCH = re.search(r"^torch==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
assert TORCH
PIN = TORCH[1]
CONFIGURED = dict(os.environ)
# pip as it is where nobody has configured it: no variables, no files.
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")} | {"PIP_CONFIG_FILE": os.devnull}


def variable(file: str, name: str) -> str:
    found = re.search(rf"^(?:ARG )?{name} *\??= *(.+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert found, f"{file} has no {name}"
    return found[1]


INDEX = variable("Makefile", "TORCH_INDEX")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has pip and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


def packages_of(environment: Path) -> Path:
    (packages,) = environment.glob("lib/python3*/site-packages")
    return packages


@pytest.fixture
def python(environment: Path) -> Iterator[Path]:
    """The interpreter of an environment without torch; what a test puts there of torch is removed again."""
    yield environment / "bin" / "python"
    for left in packages_of(environment).glob("torch-*.dist-info"):
        shutil.rmtree(left)


def install_torch(python: Path, index: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([INSTALL_TORCH, python, index], env=PLAIN, capture_output=True, text=True, check=False)


def has_torch(python: Path, version: str, requirements: list[str] | None = None) -> None:
    """Makes pip take a release of torch for installed."""
    written = packages_of(python.parents[1]) / f"torch-{version}.dist-info"
    written.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: torch", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requirements or []]
    (written / "METADATA").write_text("\n".join(lines) + "\n")
    (written / "RECORD").write_text(f"{written.name}/METADATA,,\n{written.name}/RECORD,,\n")


# What the Makefile and the Dockerfile run


def commands(tmp_path: Path, *goals: str) -> str:
    """What make would run on a clean clone."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return subprocess.run(["make", "-n", *goals], cwd=tmp_path, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("goal", "extra"), [("demo", "demo"), ("install", "test")])
def test_a_cpu_installation_asks_for_the_cpu_build_first(goal: str, extra: str, tmp_path: Path) -> None:
    torch_step, rest = commands(tmp_path, goal, "DEVICE=cpu").split("pip --disable-pip-version-check install")
    assert f"tools/install-torch .venv/bin/python {INDEX}" in torch_step
    assert f"-c constraints.txt -e '.[cpu,{extra}]'" in rest


@pytest.mark.parametrize("arguments", [("demo", "DEVICE=gpu"), ("test-quick", "DEVICE=cpu")])
def test_no_other_installation_does(arguments: tuple[str, str], tmp_path: Path) -> None:
    assert "install-torch" not in commands(tmp_path, *arguments)


def test_the_image_of_the_exporter_asks_the_same_index_and_takes_no_other_build() -> None:
    assert variable("Dockerfile", "TORCH_INDEX") == INDEX
    text = (ROOT / "Dockerfile").read_text()
    asks, checks, installs = (
        text.index('RUN tools/install-torch /opt/build/bin/python "${TORCH_INDEX}"'),
        text.index("torch-*+cpu.dist-info; then"),
        text.index("/opt/build/bin/pip install -c constraints.txt -r export.txt"),
    )
    assert asks < checks < installs
    assert "exit 1" in text[checks:installs]


def test_the_version_that_is_asked_for_is_within_the_exporters_range_and_the_one_it_calls_tested() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["export"]
    (torch,) = (requirement for text in needed if (requirement := Requirement(text)).name == "torch")
    assert torch.specifier.contains(PIN)
    assert f'TESTED_TORCH = "{PIN}"' in (ROOT / "exporter/turnout_exporter/pytorch/build.py").read_text()


# tools/install-torch


@pytest.fixture
def index(tmp_path: Path) -> str:
    """An index with a small package that is called as the CPU build is."""
    folder = tmp_path / "index" / "torch"
    folder.mkdir(parents=True)
    wheel, about = f"torch-{PIN}+cpu-py3-none-any.whl", f"torch-{PIN}+cpu.dist-info"
    with zipfile.ZipFile(folder / wheel, "w") as content:
        content.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {PIN}+cpu\n")
        content.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        content.writestr(f"{about}/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{wheel}">{wheel}</a>')
    return folder.parent.as_uri()


def installed_torch(python: Path) -> str:
    command = [str(python), "-c", "from importlib.metadata import version; print(version('torch'))"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_cpu_build_is_installed_once(python: Path, index: str) -> None:
    done = install_torch(python, index)
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 1, "")
    assert installed_torch(python) == f"{PIN}+cpu"
    again = install_torch(python, index)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_an_index_out_of_reach_costs_seconds_and_one_line(python: Path) -> None:
    began_s = time.monotonic()
    done = install_torch(python, REFUSED)
    assert time.monotonic() - began_s < 20
    assert (done.returncode, done.stderr) == (0, "")
    _, said = done.stdout.splitlines()
    assert REFUSED in said
    assert "2.9 GB to download, 5.4 GB on disk" in said


@pytest.mark.parametrize("version", [PIN, f"{PIN}+cpu", f"{PIN}+cu130"])
def test_a_torch_that_fits_the_pin_is_kept(version: str, python: Path) -> None:
    has_torch(python, version)
    done = install_torch(python, REFUSED)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_torch_that_does_not_fit_is_replaced(python: Path, index: str) -> None:
    has_torch(python, "2.0.0")
    assert install_torch(python, index).returncode == 0
    assert installed_torch(python) == f"{PIN}+cpu"


# tools/quietly


def quietly(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([QUIETLY, "Installing", *command], capture_output=True, text=True, check=False)


def test_a_step_that_works_is_one_line() -> None:
    done = quietly("sh", "-c", "echo much; echo more >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Installing\n", "")


def test_a_step_that_fails_shows_all_that_it_said() -> None:
    done = quietly("sh", "-c", "echo much; echo more >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "Installing\n", "much\nmore\n")


# What an installation brings


UNREACHABLE = re.compile("No matching distribution found|Max retries exceeded|timed out|ConnectionError|NewConnectionError")


def resolve(python: Path, arguments: list[str], variables: dict[str, str]) -> list[dict[str, Any]]:
    """What pip would install, as its report's metadata; skips the test where the packages are out of reach."""
    options = ["--isolated", "--timeout=5", "--retries=0"] if variables is PLAIN else []
    report = python.parents[1] / "report.json"
    command = [str(python), "-m", "pip", "install", *options, "--dry-run", "--quiet", f"--report={report}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode and UNREACHABLE.search(done.stderr):
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        pytest.skip(f"pip can't reach the packages from here: {errors[-1:]}")
    assert done.returncode == 0, done.stderr
    return [entry["metadata"] for entry in json.loads(report.read_text())["install"]]


def cuda_packages(packages: list[dict[str, Any]]) -> list[str]:
    return [package["name"] for package in packages if re.match(r"nvidia-|triton$|cuda-", package["name"].lower())]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("variables", [PLAIN, CONFIGURED], ids=["plain pip", "pip as configured here"])
def test_with_the_cpu_build_in_place_nothing_of_cuda_is_installed(variables: dict[str, str], python: Path) -> None:
    cpu_build = ["--no-deps", f"--index-url={INDEX}", f"torch=={PIN}+cpu"]
    (torch,) = resolve(python, cpu_build, variables)
    has_torch(python, torch["version"], torch["requires_dist"])
    packages = resolve(python, ["-c", "constraints.txt", "-e", ".[cpu,demo]"], variables)
    assert "torch" not in [package["name"] for package in packages]
    assert {"onnxruntime", "onnxscript", "locust"} <= {package["name"] for package in packages}
    assert cuda_packages(packages) == []
