"""How Turnout was installed, and so how to install what is missing.

The name `turnout` may belong to somebody else on a public package index. So advice names what was installed here: its
directory, its wheel or its URL (PEP 610, `direct_url.json`).
"""

import importlib.metadata
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

NAME = "turnout"
#: The source tree that this file is part of, unless it was installed.
SOURCE = Path(__file__).parents[2]

Find = Callable[[str], Distribution]


def version(find: Find = importlib.metadata.distribution) -> str:
    """Turnout's version; `unknown` where it runs from a source tree that isn't installed."""
    try:
        return find(NAME).version
    except PackageNotFoundError:
        return "unknown"


def install_command(*extras: str, find: Find = importlib.metadata.distribution, source: Path = SOURCE) -> str:
    """The command that adds extras to this installation.

    Args:
        find: finds an installed distribution, or raises PackageNotFoundError.
        source: the source tree, in case there is no installation.
    """
    wanted = f"[{','.join(extras)}]" if extras else ""
    try:
        installed = find(NAME)
    except PackageNotFoundError:
        return f"pip install {shlex.quote(f'{source}{wanted}')}"
    return f"pip install {' '.join(map(shlex.quote, _arguments(installed, wanted)))}"


def missing(needed: Mapping[str, str], find: Find = importlib.metadata.distribution) -> str | None:
    """Which packages can't be imported, and how to install them; None if none is missing.

    Args:
        needed: the extra that brings each package.
    """
    absent = [package for package in needed if not _is_there(package)]
    if not absent:
        return None
    extras = sorted({needed[package] for package in absent})
    are = "is" if len(absent) == 1 else "are"
    return f"{_listed(absent)} {are} not installed; run: {install_command(*extras, find=find)}{_choice(extras)}"


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # ValueError: somebody put a module without a spec into sys.modules
        return False


def _choice(extras: Sequence[str]) -> str:
    return " (or gpu instead of cpu, on a machine with an NVIDIA GPU)" if "cpu" in extras else ""


def _arguments(installed: Distribution, extras: str) -> list[str]:
    """The arguments of `pip install` for an installed distribution."""
    origin = _origin(installed)
    url = str(origin.get("url", ""))
    if not url:  # from a package index, which pip is set up for
        return [f"{NAME}{extras}=={installed.version}"]
    if "vcs_info" in origin:
        revision = origin["vcs_info"].get("requested_revision") or origin["vcs_info"].get("commit_id", "")
        return [f"{NAME}{extras} @ {origin['vcs_info'].get('vcs', 'git')}+{url}{'@' * bool(revision)}{revision}"]
    if not url.startswith("file:"):
        return [f"{NAME}{extras} @ {url}"]
    path = f"{_path(url)}{extras}"
    return ["-e", path] if origin.get("dir_info", {}).get("editable") else [path]


def _origin(installed: Distribution) -> dict[str, Any]:
    """What pip wrote down about where a distribution came from; empty if it came from an index."""
    try:
        origin = json.loads(installed.read_text("direct_url.json") or "{}")
    except ValueError:
        return {}
    return origin if isinstance(origin, dict) else {}


def _path(url: str) -> str:
    path = unquote(urlsplit(url).path)
    return path.lstrip("/") if path[2:3] == ":" else path  # /C:/models is C:/models


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
