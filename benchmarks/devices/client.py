"""Sends requests when they are due, however late the answers are, and notes what became of each."""

import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from benchmarks.cases import Case
from benchmarks.contestants import CHANNEL, START_TIMEOUT_S, message

#: How much longer than a request's deadline its end may take to be noticed.
SLACK_S = 5.0


class Answer(NamedTuple):
    """What became of one request.

    Attributes:
        asked: the device it asked for.
        due_s: when it was to be sent, since the load began.
        latency_s: from then until the end.
        status: of gRPC; `OK` or the name of what went wrong.
        device, reason: where it ran and why there; empty where that isn't known.
        predicted_us, actual_us: from the choice of the device to the end of the run, as the server saw it.
    """

    asked: str
    due_s: float
    latency_s: float
    status: str
    device: str = ""
    reason: str = ""
    predicted_us: int = 0
    actual_us: int = 0


class Client:
    """A client of the server on a port, for one case."""

    def __init__(self, port: int, case: Case) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", CHANNEL)
        self._infer = Stub(self._channel).ModelInfer
        self._message = message(case)

    def close(self) -> None:
        self._channel.close()

    def poisson(self, rates: Mapping[str, float], seconds: float, target_s: float, seed: int) -> list[Answer]:
        """Requests a second of each device, at random moments; each is given up `target_s` after it was sent.

        The moments are the same for equal seeds. Returns once every request has ended, the answers in the order sent.
        """
        due = sorted((at_s, asked) for asked, rate in rates.items() for at_s in _moments_s(rate, seconds, seed))
        messages = {asked: self._request(asked) for asked in rates}
        answers: list[Answer | None] = [None] * len(due)
        left = threading.Semaphore(0)
        began_s = time.monotonic()

        def send(number: int, due_s: float, asked: str) -> None:
            def ended(call: Any) -> None:
                answers[number] = _answer(asked, due_s, time.monotonic() - began_s - due_s, call)
                left.release()

            self._infer.future(messages[asked], timeout=target_s).add_done_callback(ended)

        for number, (due_s, asked) in enumerate(due):
            time.sleep(max(0.0, began_s + due_s - time.monotonic()))
            send(number, due_s, asked)
        for _ in due:
            if not left.acquire(timeout=target_s + SLACK_S):
                raise RuntimeError("a request had no end, not even by its deadline")
        return [answer for answer in answers if answer is not None]

    def capacity(self, devices: tuple[str, ...], seconds: float, in_flight: int = 2) -> dict[str, float]:
        """Answers a second of each device, while so many requests are kept in flight on every one of them."""
        until_s = time.monotonic() + seconds

        def loop(device: str) -> int:
            wanted, count = self._request(device), 0
            while time.monotonic() < until_s:
                self._infer(wanted, timeout=60)
                count += 1
            return count

        with ThreadPoolExecutor(in_flight * len(devices)) as pool:
            counts = {device: [pool.submit(loop, device) for _ in range(in_flight)] for device in devices}
            return {device: sum(each.result() for each in futures) / seconds for device, futures in counts.items()}

    def wait_for(self, device: str) -> None:
        """Returns once the device answers."""
        until_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._infer(self._request(device), timeout=SLACK_S)
                return
            except grpc.RpcError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.1)

    def _request(self, device: str) -> pb.ModelInferRequest:
        request = pb.ModelInferRequest()
        request.CopyFrom(self._message)
        request.parameters["device"].string_param = device
        return request


def _moments_s(rate: float, seconds: float, seed: int) -> list[float]:
    generator, moments_s, at_s = random.Random(f"{seed} {rate}"), [], 0.0
    while (at_s := at_s + generator.expovariate(rate)) < seconds:
        moments_s.append(at_s)
    return moments_s


def _answer(asked: str, due_s: float, latency_s: float, call: Any) -> Answer:
    if (code := call.code()) is not grpc.StatusCode.OK:
        return Answer(asked, due_s, latency_s, code.name)
    said = call.result().parameters
    actual_us = said["queue_us"].int64_param + said["compute_us"].int64_param
    device, reason = said["device"].string_param, said["route_reason"].string_param
    return Answer(asked, due_s, latency_s, "OK", device, reason, said["predicted_us"].int64_param, actual_us)
