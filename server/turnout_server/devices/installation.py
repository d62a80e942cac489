"""Which ONNX Runtime is installed, without importing it."""

import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import Distribution
from pathlib import Path

from turnout_cli.installation import install_command

from turnout_server.core.errors import FailedPrecondition

#: All of these install into a directory `onnxruntime`.
WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-rocm", "onnxruntime-migraphx")

#: How the names of plug-in providers' distributions begin.
PLUGIN_PREFIX = "onnxruntime-ep-"


def installed(
    find: Callable[[str], Distribution] = importlib.metadata.distribution, path: Sequence[str] = sys.path
) -> dict[str, Distribution]:
    """The wheels in the directory that `import onnxruntime` reads, by name; two of them have overwritten each other.

    Those in another directory of the path, such as that of `pip install --target`, aren't read and harm nobody.

    Args:
        find: finds an installed distribution, or raises PackageNotFoundError.
        path: where Python looks for packages, in that order.
    """
    found: dict[str, Distribution] = {}
    for name in WHEELS:
        try:
            found[name] = find(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    homes = {name: home_of(wheel) for name, wheel in found.items()}
    first = next((home for entry in path if (home := Path(entry).resolve()) in homes.values()), None)
    return {name: wheel for name, wheel in found.items() if first is None or homes[name] == first}


def plugins(distributions: Callable[[], Iterable[Distribution]] = importlib.metadata.distributions) -> dict[str, str]:
    """The versions of the plug-in providers that are installed, by distribution."""
    named = ((str(found.metadata["Name"]).lower().replace("_", "-"), found.version) for found in distributions())
    return dict(sorted((name, version) for name, version in named if name.startswith(PLUGIN_PREFIX)))


def home_of(wheel: Distribution) -> Path:
    """The directory that a wheel was installed into."""
    return Path(str(wheel.locate_file(""))).resolve()


def check_installation() -> None:
    """Raises FailedPrecondition where several ONNX Runtime wheels are installed: the last one installed would silently win."""
    found = list(installed())
    if len(found) > 1:
        raise FailedPrecondition(
            f"{' and '.join(found)} are installed, and they overwrite each other; "
            f"run: pip uninstall -y {' '.join(found)} && {install_command('cpu')} (or with gpu)"
        )
