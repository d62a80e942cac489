"""What to warn of when a server listens beyond its own machine."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Exposure:
    """Where a server listens, and what protects it there.

    Attributes:
        grpc_host, metrics_host: addresses, names, or unix sockets (`unix:...`).
        tls: whether the gRPC port is encrypted.
        authenticated: whether its clients need a token or a certificate.
        loads: whether clients may load models by RPC.
        control: whether clients without a token may change log and trace settings.
    """

    grpc_host: str
    metrics_host: str
    tls: bool
    authenticated: bool
    loads: bool
    control: bool


def is_local(host: str) -> bool:
    """Whether only this machine reaches a host: a loopback address, `localhost`, or a unix socket."""
    if host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def warnings(exposure: Exposure) -> Iterator[str]:
    """One line for each port that others reach without protection."""
    where = exposure.grpc_host
    if not is_local(where):
        if not exposure.tls:
            yield f"gRPC on {where} is not encrypted; set --tls-certificate and --tls-key, or keep it behind a proxy with TLS"
        if not exposure.authenticated:
            yield (
                f"every client that reaches {where} may {_powers(exposure)}; "
                "set --tokens or --tls-client-ca, or keep others away from the port"
            )
    if not is_local(exposure.metrics_host):
        yield (
            f"everybody who reaches {exposure.metrics_host} sees metrics, model names and queues on the metrics port; "
            "--metrics-host=127.0.0.1 keeps it to this machine"
        )


def _powers(exposure: Exposure) -> str:
    powers = ["use every model"]
    if exposure.loads:
        powers.append("load and unload models")
    if exposure.control:
        powers.append("change log and trace settings")
    return " and ".join(powers)
