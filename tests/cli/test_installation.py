"""Installations of each kind that pip knows, made up of the files that it leaves."""

import json
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from turnout_cli import installation
from turnout_cli.installation import Find, install_command, missing, version


def installed(directory: Path, origin: dict[str, Any] | None) -> Find:
    """Finds a `turnout` that pip installed from there; None stands for a package index."""
    folder = directory / "turnout-1.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: turnout\nVersion: 1.2\n")
    if origin is not None:
        (folder / "direct_url.json").write_text(json.dumps(origin))
    return lambda name: next(iter(Distribution.discover(name=name, path=[str(directory)])))


def nowhere(name: str) -> Distribution:
    raise PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ({"url": "file:///src/turnout", "dir_info": {"editable": True}}, "pip install -e '/src/turnout[gpu]'"),
        ({"url": "file:///src/my%20turnout", "dir_info": {}}, "pip install '/src/my turnout[gpu]'"),
        ({"url": "file:///C:/src/turnout", "dir_info": {}}, "pip install 'C:/src/turnout[gpu]'"),
        (
            {"url": "file:///tmp/turnout-1.2-py3-none-any.whl", "archive_info": {}},
            "pip install '/tmp/turnout-1.2-py3-none-any.whl[gpu]'",
        ),
        (
            {"url": "https://example.org/turnout-1.2.tar.gz", "archive_info": {}},
            "pip install 'turnout[gpu] @ https://example.org/turnout-1.2.tar.gz'",
        ),
        (
            {
                "url": "https://example.org/t.git",
                "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": "c0ffee"},
            },
            "pip install 'turnout[gpu] @ git+https://example.org/t.git@main'",
        ),
        (
            {"url": "https://example.org/t.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
            "pip install 'turnout[gpu] @ git+https://example.org/t.git@c0ffee'",
        ),
        (None, "pip install 'turnout[gpu]==1.2'"),
    ],
)
def test_the_advice_names_what_was_installed(tmp_path: Path, origin: dict[str, Any] | None, command: str) -> None:
    assert install_command("gpu", find=installed(tmp_path, origin)) == command


def test_without_an_installation_the_source_tree_is_what_to_install() -> None:
    assert install_command("cpu", "export", find=nowhere, source=Path("/src")) == "pip install '/src[cpu,export]'"
    assert version(nowhere) == "unknown"


@pytest.mark.parametrize("origin", ["", "[]", "{", '"text"'])
def test_a_damaged_note_of_pip_counts_as_none(tmp_path: Path, origin: str) -> None:
    find = installed(tmp_path, None)
    (tmp_path / "turnout-1.2.dist-info" / "direct_url.json").write_text(origin)
    assert install_command("cpu", find=find) == "pip install 'turnout[cpu]==1.2'"


def test_what_is_missing_is_said_once_with_all_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = installed(tmp_path, {"url": "file:///src", "dir_info": {}})
    needed = {"torch": "export", "json": "export", "rich": "export", "onnxruntime": "cpu"}
    monkeypatch.setattr(installation, "find_spec", lambda name: object() if name == "json" else None)
    assert missing(needed, find) == (
        "torch, rich and onnxruntime are not installed; run: pip install '/src[cpu,export]' "
        "(or gpu instead of cpu, on a machine with an NVIDIA GPU)"
    )
    assert missing({"json": "export"}, find) is None
