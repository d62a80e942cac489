"""What the Locust users of one process share while a test runs: channel, requests, records, and the limit of an open load."""

import random
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import gevent
import grpc
from gevent.event import Event
from gevent.pool import Pool
from locust.env import Environment

from turnout_loadtests.client import reason
from turnout_loadtests.sending.connection import Connection
from turnout_loadtests.sending.load import Load
from turnout_loadtests.sending.outcomes import Outcome, failure_of, sample_of
from turnout_loadtests.sending.samples import OK, UNFINISHED, Recorder, Sample
from turnout_loadtests.sending.streams import InferenceStream


class InferenceFailed(Exception):
    """An RPC that got no answer. Its text is the same for the same cause, so that Locust can count causes."""


class Dropped(Exception):
    """An arrival of an open load that wasn't sent."""


class Traffic:
    """One test in one process: what its users send, and what became of it."""

    def __init__(self, environment: Environment, connection: Connection, load: Load) -> None:
        self.load = load
        self.connection = connection
        self.recorder = Recorder(load.target_ms)
        self._environment = environment
        self._requests: dict[str, tuple[str, list[bytes]]] = {}
        self._open = Pool(load.in_flight)
        self._streams: list[InferenceStream] = []
        self._stopping = Event()

    def prepare(self, device: str) -> None:
        """Builds the requests for a device.

        Raises:
            LoadTestError: they can't be built.
        """
        if device not in self._requests:
            self._requests[device] = self.connection.requests(self.load, device)

    def requests(self, device: str) -> Iterator[bytes]:
        """The requests for a device without end, each user's in an order of its own."""
        self.prepare(device)
        pool = self._requests[device][1]
        return cycle(random.sample(pool, len(pool)))

    def label(self, device: str, streaming: bool) -> str:
        """The name of these requests in Locust's tables."""
        self.prepare(device)
        name = f"{self._requests[device][0]} {device or 'auto'} b{self.load.batch}"
        return f"{name} stream" if streaming else name

    def spawn(self, label: str, due_s: float, send: Callable[[float], None]) -> None:
        """Sends without waiting for the end; drops the request if too many are in flight."""
        if self._open.free_count() == 0:
            self.recorder.drop(due_s)
            if self.recorder.counts(due_s):
                text = f"dropped: {self.load.in_flight} requests were in flight (--max-in-flight)"
                self._fire(label, None, 0, Dropped(text), {})
        else:
            self._open.spawn(send, due_s)

    def send(self, label: str, due_s: float, start: Callable[[], Any]) -> None:
        """Starts a call, waits for its end, and records it. A call has `result()` and `cancel()`, as gRPC's futures."""
        began_s = time.perf_counter()
        self.recorder.sent()
        call = start()
        try:
            outcome: Outcome = call.result()
        except grpc.RpcError as error:
            outcome = error
        except gevent.GreenletExit:
            self.recorder.add(Sample(due_s, began_s, time.perf_counter(), UNFINISHED), "still in flight when the test ended")
            call.cancel()
            raise
        self._record(label, sample_of(outcome, due_s, began_s, time.perf_counter()), outcome)

    def stream(self) -> InferenceStream:
        """A stream of its own for one user."""
        self._streams.append(InferenceStream(self.connection))
        return self._streams[-1]

    def wait_until(self, due_s: float) -> bool:
        """Waits until this time. False if the load has ended meanwhile, so that nothing is to be sent."""
        if self._stopping.wait(max(0.0, due_s - time.perf_counter())):
            gevent.sleep(0.05)  # Locust stops its users a moment later
            return False
        return True

    def stop(self) -> None:
        """Ends the window and the arrivals of an open load; requests in flight go on."""
        self.recorder.stop()
        self._stopping.set()

    def close(self, timeout_s: float) -> None:
        """Waits for the requests of an open load; cancels those still in flight then, and closes the streams."""
        if not self._open.join(timeout_s):
            self._open.kill()
        for stream in self._streams:
            stream.close()

    def _record(self, label: str, sample: Sample, outcome: Outcome) -> None:
        self.recorder.add(sample, failure_of(outcome))
        if not self.recorder.counts(sample.due_s):
            return
        context = sample._asdict()
        if sample.code != OK:
            # Locust leaves a time of None out of its histogram. Refusals are quick and would make the server look fast.
            text = reason(outcome) if isinstance(outcome, grpc.RpcError) else f"{sample.code}: {failure_of(outcome)}"
            self._fire(label, None, 0, InferenceFailed(text), context)
        else:
            latency_ms = (sample.ended_s - sample.due_s) * 1e3
            size = 0 if isinstance(outcome, grpc.RpcError) else outcome.ByteSize()
            self._fire(label, latency_ms, size, None, context)

    def _fire(self, label: str, time_ms: float | None, size: int, failure: Exception | None, context: dict[str, Any]) -> None:
        self._environment.events.request.fire(  # type: ignore[no-untyped-call]
            request_type="grpc",
            name=label,
            response_time=time_ms,
            response_length=size,
            exception=failure,
            context=context,
        )


#: The attribute of Locust's environment that holds the traffic of the running test.
_ATTRIBUTE = "turnout_traffic"


def begin(environment: Environment, connection: Connection, load: Load) -> Traffic:
    """The traffic of a new test, which its users find by `traffic_of`."""
    traffic = Traffic(environment, connection, load)
    setattr(environment, _ATTRIBUTE, traffic)
    return traffic


def forget(environment: Environment) -> None:
    """Forgets the traffic of the test before, whose requests aren't those of the next."""
    setattr(environment, _ATTRIBUTE, None)


def traffic_of(environment: Environment) -> Traffic | None:
    """The traffic of the test that runs in this environment; None before the first."""
    found: Traffic | None = getattr(environment, _ATTRIBUTE, None)
    return found
