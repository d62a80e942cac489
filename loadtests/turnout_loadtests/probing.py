"""Finds out what can be measured: which models, devices and batches the server takes, and how long one request takes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from turnout_loadtests.client import QUESTION_TIMEOUT_S, connect, devices_of, model_metadata, reason, server_name
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.judging.agreement import Outputs
from turnout_loadtests.measuring.devices import DeviceFacts, facts_of, with_options
from turnout_loadtests.measuring.server import ServerAddress
from turnout_loadtests.payloads import outputs_of
from turnout_loadtests.quantities import PowerModel
from turnout_loadtests.reporting.results import FAILED, UNAVAILABLE, Gap
from turnout_loadtests.sending.connection import Connection
from turnout_loadtests.sending.load import Load

FIRST_TIMEOUT_S = 60.0  # the first request may create a session, or have kernels compiled
#: A server that answers nothing for this long counts as gone.
DEAD_AFTER_S = 5.0
WRONG_REQUEST = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)
#: Codes of requests that a server which is gone leaves behind.
GONE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNFINISHED")


#: Requests whose answers are compared between devices.
COMPARED = 8


class ServerDied(LoadTestError):
    """The server no longer answers."""


@dataclass(frozen=True)
class Stated:
    """What the user and the server's settings file state of devices.

    Attributes:
        settings: the tables of devices in the file, by name.
        server_cores: those that the server may use; 0 if they aren't known.
    """

    prices: dict[str, float] = field(default_factory=dict)
    cpu_power: PowerModel | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    server_cores: int = 0


@dataclass(frozen=True)
class Probed:
    """A device that can run a model, and how long one request of each batch takes there alone, in seconds."""

    facts: DeviceFacts
    latency_s: dict[int, float]


class Prober:
    """Asks one server, outside any measurement."""

    def __init__(self, server: ServerAddress, stated: Stated, tick: Callable[[], None]) -> None:
        self._server, self._stated, self._tick = server, stated, tick
        self._stub: Stub = connect(server.host)
        self._connection = Connection(server.host)

    def server_name(self) -> str:
        """The server's name and version."""
        return server_name(self._stub)

    def devices(self, model: str) -> list[str]:
        """The devices that the model is loaded on.

        Raises:
            LoadTestError: the server doesn't have the model.
        """
        model_metadata(self._stub, model)
        return devices_of(self._stub, model)

    def probe(self, load: Load, batches: Sequence[int]) -> tuple[Probed | None, list[Gap]]:
        """Tries each batch on the load's device with two requests; the second's time counts.

        Raises:
            ServerDied: the server no longer answers.
        """
        gaps, latency_s = [], {}
        for batch in batches:
            self._tick()
            gap, seconds = self._try(replace(load, batch=batch))
            if gap is None:
                latency_s[batch] = seconds
                continue
            gaps.append(gap)
            if gap.kind == UNAVAILABLE:
                return None, gaps
        return (Probed(self._facts(load), latency_s) if latency_s else None), gaps

    def outputs(self, load: Load) -> list[Outputs]:
        """The device's answers to the first requests of a load, whose rows are the same for every device; none if one fails."""
        try:
            _, requests = self._connection.requests(load, load.device)
            return [outputs_of(self._connection.infer(request, timeout=FIRST_TIMEOUT_S)) for request in requests[:COMPARED]]
        except (LoadTestError, grpc.RpcError, ValueError):
            return []

    def alive(self) -> bool:
        """Whether the server still answers; waits for that for a while."""
        until_s = time.monotonic() + DEAD_AFTER_S
        while time.monotonic() < until_s:
            try:
                self._stub.ServerLive(pb.ServerLiveRequest(), timeout=QUESTION_TIMEOUT_S)
            except grpc.RpcError:
                time.sleep(0.3)
            else:
                return True
        return False

    def death(self, text: str) -> ServerDied:
        """The error of a server that died, with its last words if it was started here."""
        words = self._server.last_words()
        return ServerDied(f"{text}; the end of its log: {words}" if words else text)

    def _facts(self, load: Load) -> DeviceFacts:
        stated = self._stated
        cores = stated.server_cores or None
        facts = facts_of(load.device, load.model, self._stub, self._server.metrics, stated.settings, cores)
        return with_options(facts, stated.prices, stated.cpu_power)

    def _try(self, load: Load) -> tuple[Gap | None, float]:
        """Sends two requests; why they can't be answered, or the second's time. A busy device is no failure."""
        seconds = 0.0
        try:
            for request in self._connection.requests(load, load.device)[1][:2]:
                began_s = time.perf_counter()
                self._connection.infer(request, timeout=FIRST_TIMEOUT_S)
                seconds = time.perf_counter() - began_s
        except LoadTestError as error:
            return Gap(load.model, load.device, load.batch, FAILED, str(error)), 0.0
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                return None, seconds or time.perf_counter() - began_s
            return self._refused(load, error), 0.0
        return None, seconds

    def _refused(self, load: Load, error: grpc.RpcError) -> Gap:
        if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
            text = str(error.details()).removeprefix(f"device '{load.device}' is not available: ")
            return Gap(load.model, load.device, 0, UNAVAILABLE, text)
        if error.code() not in WRONG_REQUEST and not self.alive():
            raise self.death(reason(error))
        return Gap(load.model, load.device, load.batch, FAILED, reason(error))
