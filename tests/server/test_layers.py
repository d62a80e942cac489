"""The server's structure holds: imports point down the list of folders, and what belongs in one folder stays there."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "server" / "turnout_server"

#: docs/architecture.md, "Folders". A module may import those of its own folder, and of the folders below it in this list.
FOLDERS = [
    "entry",
    "__main__",
    "cli",
    "app",
    "assembly",
    "settings_sources",
    "settings",
    "rpc",
    "observability",
    "explain",
    "serving",
    "wire",
    "models",
    "devices",
    "scheduling",
    "transport",
    "core",
    "__init__",
]

#: These folders and modules may import a package; nothing else may.
NETWORK = {"app", "rpc", "wire", "transport"}
ONLY = {
    "grpc": NETWORK,
    "grpc_health": NETWORK,
    "grpc_reflection": NETWORK,
    "google": NETWORK | {"models.config_pbtxt", "models.runtime_options"},  # these two parse config.pbtxt
    "turnout_proto": NETWORK | {"models.config_pbtxt", "models.runtime_options"},
    "onnxruntime": {"devices"},
    "opentelemetry": {"observability.spans"},
    "prometheus_client": {"app", "core.metrics", "observability"},
    "click": {"__main__", "cli"},
    "pydantic": {"settings", "settings_sources", "cli.flags"},
    "torch": set[str](),
    "turnout_exporter": set[str](),
    "turnout_loadtests": set[str](),
}
#: What a decision may not depend on.
IMPURE = {"asyncio", "io", "os", "pathlib", "socket", "threading", "time"}

#: These import without ONNX Runtime: the doctor needs them where it is broken or missing.
WITHOUT_ONNX_RUNTIME = [
    "cli.doctor.command",
    "devices.device",
    "devices.discovery",
    "devices.host",
    "devices.installation",
    "models.control",
    "settings",
    "settings_sources",
]


def module_of(file: Path) -> str:
    """The module's name below the package: `devices.sessions`, `app`."""
    return ".".join(file.relative_to(SERVER).with_suffix("").parts)


def folder_of(module: str) -> str:
    """The entry of FOLDERS that a module belongs to; the package itself is `__init__`."""
    first = module.partition(".")[0]
    return first if first in FOLDERS else "__init__"


def imports_of(file: Path) -> Iterator[str]:
    """The full names of what a file imports at run time; imports for type checkers don't count."""
    for_types: set[ast.AST] = set()
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for_types.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{file.name} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def python_files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


@pytest.mark.parametrize("file", python_files(SERVER), ids=module_of)
def test_a_module_imports_only_what_its_folder_may(file: Path) -> None:
    module = module_of(file)
    folder = folder_of(module)
    for name in imports_of(file):
        package, _, rest = name.partition(".")
        if package == "turnout_server":
            imported = folder_of(rest)
            assert FOLDERS.index(imported) >= FOLDERS.index(folder), f"{folder} is below {imported}"
        assert package not in ONLY or {folder, module} & ONLY[package], f"{module} imports {name}"
        assert folder != "scheduling" or package not in IMPURE, f"{module} decides, so it must not import {name}"


@pytest.mark.parametrize("file", python_files(SERVER), ids=module_of)
def test_every_module_is_in_a_folder_of_the_list(file: Path) -> None:
    module = module_of(file)
    assert module == "__init__" or module.partition(".")[0] in FOLDERS, "a new folder: add it to the list and the docs"


@pytest.mark.parametrize("file", [f for f in python_files(SERVER) if f.name == "__init__.py" and f.parent != SERVER])
def test_importing_a_folder_runs_nothing(file: Path) -> None:
    assert not [node for node in ast.parse(file.read_text()).body if not isinstance(node, ast.Expr)]


@pytest.mark.parametrize("module", WITHOUT_ONNX_RUNTIME)
def test_the_doctors_modules_import_without_onnx_runtime(module: str) -> None:
    code = f"import sys; sys.modules['onnxruntime'] = None; import turnout_server.{module}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_modules_of_a_folder_import_each_other_in_no_circle() -> None:
    found = {module_of(file): set[str]() for file in python_files(SERVER)}
    for file in python_files(SERVER):
        for name in imports_of(file):
            parts = name.split(".")[1:] if name.startswith("turnout_server.") else []
            found[module_of(file)] |= {".".join(parts[:n]) for n in (1, 2, 3) if ".".join(parts[:n]) in found}
    while leaves := [module for module, imported in found.items() if not imported]:
        for leaf in leaves:
            del found[leaf]
        for imported in found.values():
            imported.difference_update(leaves)
    assert not found


@pytest.mark.parametrize("package", ["exporter", "loadtests"])
def test_nothing_outside_imports_the_server(package: str) -> None:
    for file in python_files(ROOT / package):
        assert "turnout_server" not in {name.partition(".")[0] for name in imports_of(file)}, file


def test_gpus_are_numbered_as_nvidia_smi_numbers_them_unless_somebody_says_otherwise() -> None:
    code = "import os, turnout_server; print(os.environ['CUDA_DEVICE_ORDER'])"
    for environ, order in (({}, "PCI_BUS_ID"), ({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, "FASTEST_FIRST")):
        plain = {name: value for name, value in os.environ.items() if name != "CUDA_DEVICE_ORDER"}
        done = subprocess.run([sys.executable, "-c", code], env=plain | environ, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == order


def test_dictionaries_that_other_threads_change_are_copied_before_their_items_are_read() -> None:
    """Each item is a new tuple, which may set off a garbage collection and with it another thread; a copy is made in one go."""
    pattern = re.compile(r"(?:list|tuple|sorted)\(self[\w.]*\.items\(\)\)")
    found = {module_of(file) for file in SERVER.rglob("*.py") if pattern.search(file.read_text(encoding="utf-8"))}
    assert found == {"models.refresher"}  # under a lock


def test_105_only_a_timestamp_and_grpcs_own_deadlines_are_read_from_the_clock_that_may_be_set() -> None:
    readers = {module_of(file) for file in SERVER.rglob("*.py") if "time.time()" in file.read_text(encoding="utf-8")}
    assert readers == {"serving.dataplane", "transport.completion_queue", "transport.completion_queue_calls"}


def test_122_the_server_needs_no_torch_and_starts_without_telemetry() -> None:
    code = (
        "import os, sys, turnout_server.app\n"
        "assert not {'torch', 'onnx'} & set(sys.modules)\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == os.environ['ORT_TELEMETRY_DISABLED'] == '1'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
