"""The three ways of spreading calls over replicas, each with the file that deploy/balancers ships."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.contestants import ROOT, free_port
from benchmarks.replicas.replicas import Replica

SHIPPED = ROOT / "deploy" / "balancers"
#: For clients that know all servers, and for those that know a proxy only: these must not ask for health, because they would
#: take that of the one server that the question reaches for that of all.
SERVICE_CONFIG, BEHIND_PROXY = SHIPPED / "service-config.json", SHIPPED / "service-config-behind-proxy.json"


@dataclass(frozen=True)
class Target:
    """Where a client sends its calls.

    Attributes:
        host: for gRPC: HOST:PORT, or several as `ipv4:HOST:PORT,HOST:PORT`.
        service_config: a file with gRPC's service config; None without one.
    """

    host: str
    service_config: Path | None = None


def localised(text: str, replicas: Sequence[Replica], port: int) -> str:
    """A shipped file with the addresses of these replicas, listening on `port` of the loopback only."""
    lines = []
    for line in text.splitlines():
        found = re.search(r"turnout-(\d):8001", line)
        if found is None:
            lines.append(line.replace("0.0.0.0:8000", f"127.0.0.1:{port}"))
        elif int(found[1]) < len(replicas):
            replica = replicas[int(found[1])]
            lines.append(line.replace(found[0], replica.address).replace("port 8002", f"port {replica.metrics_port}"))
    return "\n".join(lines) + "\n"


@contextmanager
def nginx(replicas: Sequence[Replica], folder: Path) -> Iterator[Target]:
    """Runs nginx with grpc_pass."""
    port = free_port()
    head = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log warn; worker_processes 1;\n"
    temporary = "".join(
        f"    {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = localised((SHIPPED / "nginx.conf").read_text(), replicas, port).replace("http {\n", f"http {{\n{temporary}")
    configuration = folder / "nginx.conf"
    configuration.write_text(head + text)
    with _balancer(["nginx", "-c", str(configuration), "-p", str(folder)], port, folder) as target:
        yield target


@contextmanager
def haproxy(replicas: Sequence[Replica], folder: Path) -> Iterator[Target]:
    """Runs HAProxy with an HTTP/2 backend and health checks."""
    port = free_port()
    configuration = folder / "haproxy.cfg"
    configuration.write_text(localised((SHIPPED / "haproxy.cfg").read_text(), replicas, port))
    with _balancer(["haproxy", "-db", "-f", str(configuration)], port, folder) as target:
        yield target


@contextmanager
def round_robin(replicas: Sequence[Replica], _: Path) -> Iterator[Target]:
    """Nothing but the client: gRPC's own round robin over all addresses."""
    yield Target("ipv4:" + ",".join(replica.address for replica in replicas), SERVICE_CONFIG)


@contextmanager
def nginx_and_retries(replicas: Sequence[Replica], folder: Path) -> Iterator[Target]:
    """Runs nginx for clients with a service config, which repeat what a server dropped as it stopped (grpc/grpc#41785)."""
    with nginx(replicas, folder) as target:
        yield Target(target.host, BEHIND_PROXY)


@contextmanager
def connections(replicas: Sequence[Replica], folder: Path) -> Iterator[Target]:
    """Runs HAProxy as a balancer of connections, not of calls, like a Kubernetes Service with an address of its own."""
    port = free_port()
    servers = "\n".join(f"    server {each.name} {each.address} check inter 200ms fall 1 rise 1" for each in replicas)
    timeouts = "timeout connect 1s\n    timeout client 1h\n    timeout server 1h"
    text = f"defaults\n    mode tcp\n    {timeouts}\nlisten all\n    bind 127.0.0.1:{port}\n    balance roundrobin\n{servers}\n"
    configuration = folder / "connections.cfg"
    configuration.write_text(text)
    with _balancer(["haproxy", "-db", "-f", str(configuration)], port, folder) as target:
        yield target


#: By name, with the program that each needs.
BALANCERS = {
    "nginx grpc_pass, service config": (nginx_and_retries, "nginx"),
    "HAProxy": (haproxy, "haproxy"),
    "gRPC round robin, service config": (round_robin, ""),
    "nginx grpc_pass, plain client": (nginx, "nginx"),
}


def available(program: str) -> bool:
    """Whether a balancer's program is installed; the empty name is none."""
    return not program or shutil.which(program) is not None


@contextmanager
def _balancer(command: Sequence[str], port: int, folder: Path) -> Iterator[Target]:
    """Runs a balancer until the end of the block.

    Raises:
        RuntimeError: it doesn't listen.
    """
    with (folder / "balancer.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _await_port(port, process, folder)
            yield Target(f"127.0.0.1:{port}")
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_port(port: int, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    until_s = time.monotonic() + 10
    while time.monotonic() < until_s and process.poll() is None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=1)
                return
            except grpc.FutureTimeoutError:
                time.sleep(0.1)
    raise RuntimeError(f"the balancer doesn't listen; its log is {folder}/balancer.log")
