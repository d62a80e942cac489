"""An open-loop sender: requests go out when they are due, at the moments of a Poisson process, however late the answers are.

A closed loop, as in users.py, sends less while the server is slow, so that the waits of the requests not sent are missing from
its latencies. Here latency counts from when a request was due, which includes the time by which it was sent late. The sender
blocks its thread, so it isn't for Locust users, which share one.
"""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from turnout_loadtests.client import number, text
from turnout_loadtests.errors import LoadTestError

#: Seconds after its deadline within which a request's end must be noticed.
GRACE_S = 5.0


@dataclass(frozen=True)
class Source:
    """Requests that arrive at random moments, independently of each other.

    Attributes:
        name: tells its outcomes from those of other sources.
        requests: sent in turn.
        rate_per_s: the mean rate of arrivals.
    """

    name: str
    requests: Sequence[pb.ModelInferRequest]
    rate_per_s: float


class Outcome(NamedTuple):
    """How one request ended.

    Attributes:
        source: the name of its source.
        due_s: when it was to be sent, in seconds after the load began.
        latency_s: the time from then until its end.
        code: its gRPC status; `OK` for an answer.
        device, route_reason: where it ran, and why there; empty if the server doesn't say.
        predicted_us, actual_us: from the choice of the device to the end of the run, as the server predicted and measured it; 0
            if it doesn't say.
    """

    source: str
    due_s: float
    latency_s: float
    code: str
    device: str = ""
    route_reason: str = ""
    predicted_us: int = 0
    actual_us: int = 0


def send_poisson(stub: Stub, sources: Sequence[Source], duration_s: float, timeout_s: float, seed: int = 0) -> list[Outcome]:
    """Sends the requests of all sources, and returns their outcomes in the order in which they were due.

    Args:
        duration_s: how long requests arrive; the call returns once all of them have ended.
        timeout_s: the gRPC deadline of each request, counted from when it is sent.
        seed: equal seeds and rates give equal moments.

    Raises:
        LoadTestError: a request has not ended `GRACE_S` after its deadline.
    """
    due = sorted(
        (due_s, place, turn)
        for place, source in enumerate(sources)
        for turn, due_s in enumerate(arrivals_s(source.rate_per_s, duration_s, f"{seed} {place} {source.rate_per_s}"))
    )
    outcomes: dict[int, Outcome] = {}
    ended = threading.Semaphore(0)
    began_s = time.monotonic()

    def send(index: int, due_s: float, source: Source, request: pb.ModelInferRequest) -> None:
        def on_end(call: Any) -> None:
            outcomes[index] = _outcome(source.name, due_s, time.monotonic() - began_s - due_s, call)
            ended.release()

        stub.ModelInfer.future(request, timeout=timeout_s).add_done_callback(on_end)

    for index, (due_s, place, turn) in enumerate(due):
        time.sleep(max(0.0, began_s + due_s - time.monotonic()))
        source = sources[place]
        send(index, due_s, source, source.requests[turn % len(source.requests)])
    for _ in due:
        if not ended.acquire(timeout=timeout_s + GRACE_S):
            raise LoadTestError(f"a request had not ended {GRACE_S:g} s after its deadline of {timeout_s:g} s")
    return [outcomes[index] for index in range(len(due))]


def arrivals_s(rate_per_s: float, duration_s: float, seed: str) -> list[float]:
    """The moments of a Poisson process, in seconds from 0 to `duration_s`; the same for the same seed."""
    generator, moments_s, at_s = random.Random(seed), [], 0.0
    while (at_s := at_s + generator.expovariate(rate_per_s)) < duration_s:
        moments_s.append(at_s)
    return moments_s


def _outcome(source: str, due_s: float, latency_s: float, call: Any) -> Outcome:
    if (code := call.code()) is not grpc.StatusCode.OK:
        return Outcome(source, due_s, latency_s, code.name)
    stated = call.result().parameters
    actual_us = number(stated, "queue_us") + number(stated, "compute_us")
    device, reason = text(stated, "device"), text(stated, "route_reason")
    return Outcome(source, due_s, latency_s, "OK", device, reason, number(stated, "predicted_us"), actual_us)
