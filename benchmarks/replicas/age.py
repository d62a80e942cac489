"""A replica is added behind a balancer of connections: when does it get traffic, and what if connections have a greatest age?

A call stays on its connection. So a client that is connected goes on with its old servers, unless they end the connection.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from benchmarks.replicas.balancers import Target
from benchmarks.replicas.replicas import Replica

CLIENTS = 8
REQUESTS_PER_S = 15.0  # of each client
EVERY_S = 0.5


@dataclass
class Curve:
    """Answered requests by replica over time.

    Attributes:
        age_ms: the greatest age of a connection; 0 for none.
        added_s: when the last replica was ready.
        at_s: the times of the counts.
        answered: counts by replica, one for each time.
        failed: requests that failed, in all.
    """

    age_ms: int
    added_s: float = 0.0
    at_s: list[float] = field(default_factory=list)
    answered: dict[str, list[int]] = field(default_factory=dict)
    failed: int = 0

    def share_of_last(self, since_s: float) -> float:
        """The share that the last replica had of the requests answered after a time."""
        first = next(index for index, at_s in enumerate(self.at_s) if at_s >= since_s)
        grown = [counts[-1] - counts[first] for counts in self.answered.values()]
        return grown[-1] / sum(grown) if sum(grown) else 0.0


def observe(
    replicas: Sequence[Replica], target: Target, request: pb.ModelInferRequest, age_ms: int, duration_s: float
) -> Curve:
    """Loads all but the last replica, adds that one after a third of the time, and counts.

    Args:
        age_ms: what the replicas were started with.
    """
    curve, stop = Curve(age_ms, answered={replica.name: [] for replica in replicas}), threading.Event()
    clients = [threading.Thread(target=_ask, args=(target, request, stop, curve)) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    began_s = time.monotonic()
    adding = threading.Timer(duration_s / 3, _add, (replicas[-1], curve, began_s))
    adding.start()
    try:
        while time.monotonic() - began_s < duration_s:
            curve.at_s.append(time.monotonic() - began_s)
            for replica in replicas:
                curve.answered[replica.name].append(replica.answered())
            time.sleep(EVERY_S)
    finally:
        stop.set()
        adding.join()
        for client in clients:
            client.join()
    return curve


def _add(replica: Replica, curve: Curve, began_s: float) -> None:
    replica.start()
    curve.added_s = time.monotonic() - began_s


def _ask(target: Target, request: pb.ModelInferRequest, stop: threading.Event, curve: Curve) -> None:
    """One client, with a connection of its own, at a steady rate."""
    with grpc.insecure_channel(target.host, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = Stub(channel)
        while not stop.wait(1 / REQUESTS_PER_S):
            try:
                stub.ModelInfer(request, timeout=10)
            except grpc.RpcError:
                curve.failed += 1
