import ast
from importlib.resources import files
from pathlib import Path

import pytest

PACKAGE = Path(str(files("turnout_exporter")))


def importers(package: str) -> set[str]:
    """The modules of the exporter that import a package, anywhere in the file."""
    found = set()
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == package for name in names):
                found.add(file.stem)
    return found


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("turnout_server", set()),
        ("torch", {"torch_export", "weights", "outputs"}),
        ("onnxruntime", {"verify"}),
        ("rich", {"cli", "terminal"}),
        ("click", {"cli"}),
    ],
)
def test_a_package_is_imported_by_its_modules_only(package: str, allowed: set[str]) -> None:
    assert importers(package) == allowed


@pytest.mark.parametrize("child", ["torch_export", "verify", "weights", "outputs"])
def test_the_parent_process_imports_no_module_of_the_children(child: str) -> None:
    imported = {
        alias.name
        for file in PACKAGE.glob("*.py")
        if file.stem not in {"torch_export", "verify"}
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "turnout_exporter"
        for alias in node.names
    }
    assert child not in imported
