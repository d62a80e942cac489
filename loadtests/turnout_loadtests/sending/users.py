"""Locust users that send inferences. Importing this module prepares gRPC for gevent, so import it before a channel exists.

All users of a process share one channel and wait on `.future(...)`. A blocking call would hold one of the ten threads of
gevent's pool until it ends, so that fast calls would wait for slow ones.
"""

import random
import time
from typing import Any

import gevent
import locust.stats
from grpc.experimental.gevent import init_gevent  # type: ignore[import-not-found]
from locust import User, constant
from locust.exception import StopTest, StopUser

from turnout_loadtests.sending.buckets import three_significant_digits
from turnout_loadtests.sending.options import DEFAULT_HOST
from turnout_loadtests.sending.traffic import traffic_of

init_gevent()
gevent.get_hub().threadpool.maxsize = 64
gevent.get_hub().NOT_ERROR += (StopTest,)  # Locust logs the text; the hub would add a traceback
locust.stats.bucket_response_time = three_significant_digits  # type: ignore[assignment]


class InferenceUser(User):
    """Sends inferences to one device: one after another, or at random moments if the arrival is open.

    Attributes:
        device: where its requests run, unless the option `--device` states it.
        streaming: the user has a stream instead of a call for each request.
    """

    abstract = True
    host = DEFAULT_HOST
    wait_time = constant(0)
    device = "auto"
    streaming = False

    def on_start(self) -> None:
        traffic = traffic_of(self.environment)
        if traffic is None:
            raise StopUser  # the test couldn't start
        self._traffic = traffic
        device = self._traffic.load.device or self.device
        self._requests = self._traffic.requests(device)
        self._label = self._traffic.label(device, self.streaming)
        self._stream = self._traffic.stream() if self.streaming else None
        self._due_s = time.perf_counter()

    def infer(self) -> None:
        """Sends the next request. In a closed load that takes until its end; in an open one, until it is due."""
        if mean_gap_s := self._traffic.load.mean_gap_s:
            self._due_s += random.expovariate(1 / mean_gap_s)
            if self._traffic.wait_until(self._due_s):
                self._traffic.spawn(self._label, self._due_s, self._send)
        else:
            self._send(time.perf_counter())

    def _send(self, due_s: float) -> None:
        request = next(self._requests)
        self._traffic.send(self._label, due_s, lambda: self._call(request))

    def _call(self, request: bytes) -> Any:
        timeout_s, connection = self._traffic.load.timeout_s, self._traffic.connection
        if self._stream is not None:
            return self._stream.send(request, timeout_s)
        call = connection.live if self._traffic.load.floor else connection.infer
        return call.future(request, timeout=timeout_s)
