"""Which parts of the exporter import which: read from the imports of every module."""

import ast
from importlib.resources import files
from pathlib import Path

import pytest

PACKAGE = Path(str(files("turnout_exporter")))
CHILDREN = ("pytorch", "runtime")  # folders whose modules run in child processes


def imports(file: Path) -> set[str]:
    """The full names of what a module imports, anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def folder_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0] if file.parent != PACKAGE else ""


def importers(package: str) -> set[str]:
    """The folders, or modules outside of folders, that import a package."""
    found = [file for file in PACKAGE.rglob("*.py") if any(name.split(".")[0] == package for name in imports(file))]
    return {folder_of(file) or file.stem for file in found}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("turnout_server", set()),
        ("torch", {"pytorch"}),
        ("transformers", set()),
        ("onnxruntime", {"runtime"}),
        ("rich", {"cli"}),
        ("click", {"cli"}),
    ],
)
def test_a_package_is_imported_by_its_part_only(package: str, allowed: set[str]) -> None:
    assert importers(package) == allowed


@pytest.mark.parametrize("file", [file for file in PACKAGE.rglob("*.py") if folder_of(file) not in CHILDREN], ids=str)
def test_the_parent_process_imports_no_module_of_the_children(file: Path) -> None:
    assert not [name for name in imports(file) if name.startswith(tuple(f"turnout_exporter.{child}" for child in CHILDREN))]


@pytest.mark.parametrize("file", [*PACKAGE.rglob("*.py")], ids=str)
def test_the_specification_is_the_lowest_layer_and_the_children_do_not_know_the_repository(file: Path) -> None:
    below = {"spec": ("spec", "errors"), "pytorch": None, "runtime": None}.get(folder_of(file))
    for name in imports(file):
        if not name.startswith("turnout_exporter."):
            continue
        part = name.split(".")[1]
        if below:
            assert part in below, (file, name)
        if folder_of(file) in CHILDREN:
            assert part not in {"repository", "pipeline", "cli", "conversion", "variants", "version_folder"} | (
                {*CHILDREN} - {folder_of(file)}
            ), (file, name)
