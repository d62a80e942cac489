"""What one measurement sends: the plain values that a plan, a sending process and a Locust command have in common."""

import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

CLOSED, OPEN = "closed", "open"
RANDOM, GOLDEN = "random", "golden"
SINGLE_STREAM, SERVER, OFFLINE = "SingleStream", "Server", "Offline"

#: Users of an open load send this many requests per second each, at most: few and busy users cost the sender least.
RATE_OF_A_USER = 50.0


@dataclass(frozen=True)
class Load:
    """The load of one measurement.

    Attributes:
        device: the request parameter; empty for requests without one.
        arrival: `closed`, where a request follows the answer to the one before, or `open`, where requests arrive at random
            moments of a Poisson process whether or not answers keep up.
        in_flight: requests in flight at all times in a closed load; in an open one, the most there may be at once.
        rate_per_s: requests per second that an open load offers.
        timeout_s: the gRPC deadline of each request.
        shape: sizes of free dimensions, such as `tokens:128 mask:128`.
        payload: `random`, `golden` (what the exporter published with the model, in `repository`), or the path of an .npz.
        service_config: gRPC's, as JSON: how calls are spread over several servers and repeated; empty for none.
        target_ms: an answer that takes longer misses the target.
        misses_allowed: the load ends early once more answers than this have missed the target; None to let it run.
        streaming: each user has one stream instead of a call for each request.
        users: Locust users that send it; 0 for as many as it needs.
        fills: a closed load that is meant to fill the device, also where one request in flight does.
        floor: calls ServerLive instead of running the model: what client, network and server cost without inference.
    """

    host: str
    model: str
    device: str
    batch: int = 1
    arrival: str = CLOSED
    in_flight: int = 1
    rate_per_s: float = 0.0
    warm_up_s: float = 1.0
    duration_s: float = 5.0
    timeout_s: float = 30.0
    shape: str = ""
    payload: str = RANDOM
    repository: str = ""
    service_config: str = ""
    target_ms: float | None = None
    misses_allowed: int | None = None
    streaming: bool = False
    users: int = 0
    fills: bool = False
    floor: bool = False

    @property
    def scenario(self) -> str:
        """The name that MLPerf Inference gives to this kind of load."""
        if self.arrival == OPEN:
            return SERVER
        return OFFLINE if self.fills or self.in_flight > 1 else SINGLE_STREAM

    @property
    def user_count(self) -> int:
        """How many Locust users send it."""
        if self.users:
            return self.users
        return self.in_flight if self.arrival == CLOSED else max(1, math.ceil(self.rate_per_s / RATE_OF_A_USER))

    @property
    def mean_gap_s(self) -> float:
        """The mean time between two arrivals of one user of an open load; 0 for a closed one."""
        return self.user_count / self.rate_per_s if self.arrival == OPEN else 0.0


def locust_command(load: Load, processes: int = 1) -> str:
    """The command that applies the same load with Locust alone."""
    options: dict[str, object] = {
        "--host": load.host,
        "--model": load.model,
        "--device": load.device,
        "--batch": load.batch,
        "--shape": load.shape,
        "--payload": "" if load.payload == RANDOM else load.payload,
        "--model-repository": load.repository if load.payload == GOLDEN else "",
        "--users": load.user_count,
        "--spawn-rate": load.user_count,
        "--warm-up": f"{load.warm_up_s:g}",
        "--duration": f"{load.duration_s:g}",
        "--timeout": f"{load.timeout_s:g}",
        "--stop-timeout": f"{load.timeout_s:g}",
    }
    if load.arrival == OPEN:
        options["--arrival"] = OPEN
        options["--rate-per-user"] = f"{1 / load.mean_gap_s:.6g}"
        options["--max-in-flight"] = load.in_flight
    if load.target_ms is not None:
        options["--slo-p99-ms"] = f"{load.target_ms:g}"
    if processes > 1:
        options["--processes"] = processes
    given = [text for name, value in options.items() if value != "" for text in (name, str(value))]
    user = "StreamUser" if load.streaming else "AutoUser"
    return shlex.join(["locust", "-f", os.path.relpath(locustfile()), "--headless", "--only-summary", user, *given])


def locustfile() -> Path:
    """The path of `locustfile.py`: inside the package if it was installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "locustfile.py"
    return inside if inside.exists() else package.parent / "locustfile.py"
