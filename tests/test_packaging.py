"""The packages: what they depend on, what they contain, and what a release needs."""

import ast
import re
import runpy
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.tools import tool

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
RELEASE_CHECK = ROOT / "tools" / "release-check"

#: The folders whose code needs the dependencies of an extra; the empty name is the project's own.
USERS = {"": ["server", "proto"], "export": ["exporter"], "loadtest": ["loadtests"], "otel": ["server"], "demo": ["examples"]}
#: Needed without being imported: torch.onnx imports it.
NOT_IMPORTED = {"onnxscript"}


def requirements(extra: str = "") -> Iterator[Requirement]:
    """The requirements of an extra without other extras; the empty name is the project's own."""
    for line in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(line)
        if requirement.name != PROJECT["name"]:
            yield requirement


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        canonicalize_name(name): version for name, version in (line.split("==") for line in lines if not line.startswith("#"))
    }


def imports_in(folder: str) -> set[str]:
    """All packages, and packages within a namespace, that the code of a folder imports."""
    found: set[str] = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found |= {name.split(".")[0] for name in names}
    return found


@pytest.mark.parametrize("extra", USERS)
def test_every_dependency_is_imported_by_the_code_that_asks_for_it(extra: str) -> None:
    providers: dict[str, set[str]] = {}
    for package, distributions in packages_distributions().items():
        for distribution in distributions:
            providers.setdefault(canonicalize_name(distribution), set()).add(package)
    imported = set[str]().union(*(imports_in(folder) for folder in USERS[extra]))
    for requirement in requirements(extra):
        name = canonicalize_name(requirement.name)
        if name in NOT_IMPORTED or name not in providers:  # not installed here
            continue
        assert providers[name] & imported, f"{requirement.name} is imported nowhere in {USERS[extra]}"


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_124_every_dependency_is_pinned_within_the_range_that_is_asked_for(extra: str) -> None:
    for requirement in requirements(extra):
        pin = pins().get(canonicalize_name(requirement.name))
        assert pin, f"constraints.txt has no {requirement.name}"
        assert requirement.specifier.contains(pin, prereleases=True), f"{requirement.name}: {pin} isn't {requirement.specifier}"


def test_the_constraints_are_sorted_and_name_nothing_twice() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=str.lower)
    assert len(pins()) == len(lines)


def test_the_version_is_stated_in_one_place() -> None:
    stated = re.compile(rf"\b(version|VERSION)__? *= *[\"']{re.escape(PROJECT['version'])}[\"']")
    files = [file for folder in ("proto", "server", "exporter", "loadtests") for file in (ROOT / folder).rglob("*.py")]
    assert not [file for file in [*files, ROOT / "Dockerfile", ROOT / "Makefile"] if stated.search(file.read_text())]


def test_the_packages_are_complete_and_rated_9_or_better() -> None:
    python = tool("pyproject-build")
    done = subprocess.run([Path(python).with_name("python"), RELEASE_CHECK], capture_output=True, text=True, check=False)
    complaints = [
        line for line in done.stderr.splitlines() if "CHANGELOG.md has no section" not in line and ".example" not in line
    ]
    assert not complaints, done.stderr
    assert re.search(r"pyroma: (9|10)/10", done.stdout)


@pytest.mark.parametrize(
    ("changelog", "problems"), [("## [1.2.3] - 2026-11-27\n", 0), ("## [Unreleased]\n## [1.2.30] - 2026-11-27\n", 1), ("", 1)]
)
def test_a_release_has_its_section_in_the_changelog(
    changelog: str, problems: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = runpy.run_path(str(RELEASE_CHECK))
    monkeypatch.setitem(check["changelog_problems"].__globals__, "ROOT", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    assert len(list(check["changelog_problems"]("1.2.3"))) == problems


def test_a_release_has_an_address() -> None:
    check = runpy.run_path(str(RELEASE_CHECK))["url_problems"]
    assert not list(check({"Source": "https://git.example.com/turnout"}))
    assert list(check({"Source": "https://turnout.example/source"}))
    assert list(check({"Source": "https://turnout.example"}))


def test_release_check_names_what_a_package_lacks() -> None:
    missing = runpy.run_path(str(RELEASE_CHECK))["missing"]
    assert list(missing("the wheel", ["a/b.py"], ("a/", "c.txt"))) == ["the wheel has no c.txt"]
