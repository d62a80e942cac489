"""The server's layers hold: imports point downward, and what belongs to one module stays in it."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "server" / "turnout_server"

#: docs/architecture.md, "Layers". A module may import those of its own layer and of those below.
LAYERS: list[set[str]] = [
    {"__init__", "wheels", "errors", "datatypes", "devicenames", "config", "metrics"},
    {"backlog", "batching", "classification", "comers", "messages", "profiles", "routing", "signatures", "waiting"}
    | {"explanation", "exploration", "utilisation"},
    {
        "cgroups",
        "control",
        "deployments",
        "devices",
        "engines",
        "layout",
        "loading",
        "readiness",
        "repository",
        "scheduler",
        "sessions",
        "warmup",
        "work",
    }
    | {"child", "engines", "isolation", "lanes", "modelmetrics", "nvml", "plugins", "profilestore", "profiling", "verification"}
    | {"bindings", "precision", "refreshing", "weights"}
    | {"configfile", "runtimeoptions", "sharedmemory", "logsettings", "tracing", "tritonmetrics"},
    {"dataplane", "explaining", "plans"},
    {"answering", "answers", "codec", "describe", "extensions", "health", "inference", "monitoring", "parameters", "reflection"}
    | {"queries", "services", "streaming", "templates", "tensors", "transport", "wire"},
    {"__main__", "app", "doctor", "explain", "settings", "textpage"},
]
LAYER = {module: number for number, modules in enumerate(LAYERS) for module in modules}

#: Who may use what.
GRPC = {module for module, layer in LAYER.items() if layer >= 4}
ONLY = {
    "grpc": GRPC,
    "grpc_health": GRPC,
    "grpc_reflection": GRPC,
    "google": GRPC | {"configfile", "runtimeoptions"},  # these two parse config.pbtxt
    "turnout_proto": GRPC | {"configfile", "runtimeoptions"},
    "onnxruntime": {"sessions", "bindings", "plugins"},
    "pydantic": {"settings"},
    "pydantic_settings": {"settings"},
    "torch": set(),
    "turnout_exporter": set(),
    "turnout_loadtests": set(),
}


def module_of(file: Path) -> str:
    """The name in LAYERS: a package counts as one module."""
    return file.relative_to(SERVER).parts[0].removesuffix(".py")


def imports_of(file: Path) -> Iterator[str]:
    """The full names of what a file imports when it runs; what only a type checker sees doesn't count."""
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


@pytest.mark.parametrize("file", python_files(SERVER), ids=lambda file: str(file.relative_to(SERVER)))
def test_a_module_imports_only_what_its_layer_may(file: Path) -> None:
    module = module_of(file)
    assert module in LAYER, "a new module: give it a layer here and in docs/architecture.md"
    for name in imports_of(file):
        package, _, rest = name.partition(".")
        if package == "turnout_server":
            imported = rest.partition(".")[0]
            imported = imported if imported in LAYER else "__init__"
            assert LAYER[imported] <= LAYER[module], f"{module} is below {imported}"
        assert package not in ONLY or module in ONLY[package], f"{module} imports {name}"
        if LAYER[module] == 1:
            assert package not in ("threading", "time", "asyncio", "os", "io", "pathlib", "socket"), f"{module}: {name}"


def test_imports_go_in_no_circle() -> None:
    found = {module_of(file): set[str]() for file in python_files(SERVER)}
    for file in python_files(SERVER):
        parts = [name.split(".")[1] for name in imports_of(file) if name.startswith("turnout_server.")]
        found[module_of(file)] |= {part for part in parts if part in found and part != module_of(file)}
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


def test_the_server_needs_no_torch_and_starts_without_telemetry() -> None:
    code = (
        "import os, sys, turnout_server.app\n"
        "assert not {'torch', 'onnx'} & set(sys.modules)\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == os.environ['ORT_TELEMETRY_DISABLED'] == '1'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
