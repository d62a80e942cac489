"""Runs the commands of docs/first-steps.md as they stand there, one after another, and compares what they print."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path

import pytest

from tests import models

PAGE = Path(__file__).parents[2] / "docs" / "first-steps.md"
PACKAGES = {"server": "turnout_server", "export": "turnout_exporter", "loadtest": "turnout_loadtests"}
TIMEOUT_S = 60


def commands() -> list[tuple[str, str]]:
    """Each command of the page, and what it prints."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    each = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
    return [(command, output) for block in blocks for command, output in each.findall(block)]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


class Shell:
    """Runs commands in a directory, with the commands of this project in front of all others, and on ports of its own."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self._directory = directory
        self._grpc, self._metrics = free_ports(2)
        for name, package in PACKAGES.items():
            program = programs / f"turnout-{name}"
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {package} "$@"\n')
            program.chmod(0o755)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("TURNOUT_")}
        ports = {"TURNOUT_GRPC_PORT": str(self._grpc), "TURNOUT_METRICS_PORT": str(self._metrics)}
        self._environ = {**clean, **ports, "PATH": f"{programs}{os.pathsep}{clean['PATH']}", "COLUMNS": "200"}
        self._servers: list[subprocess.Popen[str]] = []

    def start(self, command: str) -> subprocess.Popen[str]:
        line = command.replace("8001", str(self._grpc)).replace("8002", str(self._metrics))
        return subprocess.Popen(
            ["sh", "-c", f"exec {line}" if "=" not in line.split()[0] else line],
            cwd=self._directory,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        """What a command prints; of one in the background, up to where a model is ready."""
        if not command.endswith(" &"):
            with self.start(command) as process:
                return self._on_the_usual_ports(process.communicate(timeout=TIMEOUT_S)[0])
        server = self.start(command.removesuffix(" &"))
        self._servers.append(server)
        assert server.stdout is not None
        lines = []
        for line in server.stdout:
            lines.append(line)
            if "is ready on" in line:
                break
        return self._on_the_usual_ports("".join(lines))

    def stop(self) -> None:
        for server in self._servers:
            server.kill()
            server.communicate()

    def _on_the_usual_ports(self, text: str) -> str:
        return text.replace(str(self._grpc), "8001").replace(str(self._metrics), "8002")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    directory, programs = tmp_path / "work", tmp_path / "bin"
    programs.mkdir()
    models.save(directory / "models", "digits", models.mlp())
    models.save(directory / "models", "pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (directory / "model.onnx").write_bytes(models.mlp().SerializeToString())
    shell = Shell(directory, programs)
    yield shell
    shell.stop()


@pytest.mark.timeout(300)
def test_the_commands_print_what_the_page_says(shell: Shell) -> None:
    found = commands()
    assert len(found) > 15
    for command, wanted in found:
        printed = shell.run(command)
        assert OutputChecker().check_output(wanted, printed, ELLIPSIS), f"$ {command}\n{printed}"
