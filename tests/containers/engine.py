"""Builds images with buildah and runs them with podman, in a storage of its own; also inside a container, without systemd."""

import json
import os
import resource
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.13-slim"
STAND_IN = "localhost/turnout-test-base"
#: What a hardened deployment sets; nothing of it may keep the server from working.
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def require(*programs: str) -> None:
    """Skips the test where a program is missing."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        pytest.skip(f"not installed here: {', '.join(missing)}; on Debian: apt-get install {' '.join(missing)} runc")


def run(*command: str | Path, timeout_s: float = 60, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=timeout_s, check=False, **options
    )


class Container:
    """A container that runs, or ran."""

    def __init__(self, podman: Sequence[str], name: str, environment: dict[str, str]) -> None:
        self._podman, self._name, self._environment = podman, name, environment

    def ask(self, *words: str, timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
        """Runs a podman command on this container: `exec` with further words, for example."""
        return run(*self._podman, words[0], self._name, *words[1:], env=self._environment, timeout_s=timeout_s)

    def is_healthy(self) -> bool:
        """What the image's own health check says now."""
        return run(*self._podman, "healthcheck", "run", self._name, env=self._environment).returncode == 0

    @property
    def log(self) -> str:
        done = self.ask("logs")
        return done.stdout + done.stderr

    def wait_for_readiness(self, port: int, timeout_s: float = 30) -> None:
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        pytest.fail(f"not ready after {timeout_s} s:\n{self.log}")

    def stop(self) -> tuple[int, float]:
        """Sends SIGTERM; returns the exit status, 137 if it had to be killed, and the seconds that it took."""
        began_s = time.monotonic()
        assert self.ask("stop", "--time=20").returncode == 0
        took_s = time.monotonic() - began_s
        return int(self.ask("inspect", "--format={{.State.ExitCode}}").stdout), took_s


class Engine:
    """buildah and podman over one storage directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in ("storage", "run", "tmp"):
            (folder / name).mkdir()
        configuration = folder / "storage.conf"
        configuration.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n', encoding="utf-8"
        )
        self._environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(configuration), "TMPDIR": str(folder / "tmp")}
        # Without systemd there is nobody to make control groups but the tools themselves, and crun and namespaces may fail.
        self._bare = os.geteuid() == 0 and not Path("/run/systemd/system").exists()
        self._podman = ["podman", *(["--cgroup-manager=cgroupfs"] if self._bare else [])]
        if self._bare and shutil.which("runc"):
            self._podman.append("--runtime=runc")
        self._started = 0

    def buildah(self, *words: str | Path, timeout_s: float = 300) -> str:
        done = run("buildah", *words, env=self._environment, timeout_s=timeout_s, cwd=ROOT)
        assert done.returncode == 0, f"{' '.join(map(str, words))}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    def base(self) -> str:
        """The name of an image with Python: the Dockerfile's default, or one made from Debian where no registry is reached."""
        if run("buildah", "pull", "--quiet", BASE, env=self._environment, timeout_s=120).returncode == 0:
            return BASE
        require("debootstrap")
        root = self._folder / "debian"
        packages = "--include=python3,python3-venv,ca-certificates"
        made = run("debootstrap", "--variant=minbase", packages, "trixie", root, timeout_s=600)
        if made.returncode:
            pytest.skip(f"neither {BASE} can be pulled nor Debian's packages be reached: {made.stdout[-300:]}")
        shutil.rmtree(root / "var" / "cache" / "apt" / "archives")
        (root / "usr" / "local" / "bin" / "python").symlink_to("/usr/bin/python3")
        if CERTIFICATES.exists():  # the network's own, if it has one
            shutil.copyfile(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        archive = self._folder / "debian.tar"
        run("tar", "-C", root, "-cf", archive, ".", timeout_s=120)
        shutil.rmtree(root)
        working = self.buildah("from", "scratch")
        self.buildah("add", working, archive, "/")
        archive.unlink()
        path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        self.buildah("config", f"--env=PATH={path}", f"--env=PIP_CERT={CERTIFICATES}", "--cmd=python3", working)
        self.buildah("commit", "--rm", working, STAND_IN)
        return STAND_IN

    def build(self, base: str, tag: str, *flags: str, target: str = "cpu", version: str = "9.9") -> None:
        """Builds a target of the Dockerfile."""
        isolated = ["--isolation=chroot", "--network=host"] if self._bare else []
        arguments = [f"--build-arg=BASE={base}", f"--build-arg=VERSION={version}", f"--target={target}", f"--tag={tag}"]
        self.buildah("bud", *isolated, "--pull-never", "--layers", *arguments, *flags, ".", timeout_s=600)

    def image(self, tag: str) -> dict[str, Any]:
        """What `podman inspect` says of an image."""
        done = run(*self._podman, "image", "inspect", tag, env=self._environment)
        (found,) = json.loads(done.stdout)
        return dict(found)

    def files(self, tag: str) -> set[str]:
        """The files of an image below /opt, as absolute paths."""
        working = self.buildah("from", "--pull-never", tag)
        root = Path(self.buildah("mount", working))
        found = {f"/{file.relative_to(root)}" for file in (root / "opt").rglob("*")}
        self.buildah("umount", working)
        self.buildah("rm", working)
        return found

    @contextmanager
    def container(self, tag: str, *command: str, flags: Sequence[str] = ()) -> Iterator[Container]:
        """A running container on the host's network; removed after the block."""
        self._started += 1
        name = f"{self._folder.name}-{self._started}"
        limits = []
        for kind, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
            least = min(10_000, *(limit for limit in resource.getrlimit(number) if limit >= 0), 10_000)
            limits.append(f"--ulimit={kind}={least}:{least}")  # podman's default may be above what this process may set
        began = run(
            *self._podman, "run", "--detach", f"--name={name}", "--network=host", *limits, *flags, tag, *command,
            env=self._environment,
        )  # fmt: skip
        assert began.returncode == 0, began.stderr
        try:
            yield Container(self._podman, name, self._environment)
        finally:
            run(*self._podman, "rm", "--force", "--time=0", name, env=self._environment)

    def clean(self) -> None:
        """Removes all images and what they were made of."""
        run(*self._podman, "system", "reset", "--force", env=self._environment, timeout_s=120)
