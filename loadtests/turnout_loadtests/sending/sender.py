"""`python -m turnout_loadtests.sending.sender`: a process that applies one load after another, as its standard input orders.

Each line of the input is an order and each line of the output an answer, as JSON. Loads run with Locust's own runner and users,
so that they measure what the `locust` command would; the process stays, because starting Locust takes seconds.

    {"order": "prepare", "load": {...}}                            -> {"ready": true} or {"error": "..."}
    {"order": "send", "start_s": 12.3, "samples": "/tmp/x.npz"}    -> {"done": true} or {"error": "..."}

The input's end ends the process.
"""

import json
import logging
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import gevent
import gevent.fileobject
from locust import task
from locust.env import Environment

from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.sending.connection import Connection
from turnout_loadtests.sending.load import Load
from turnout_loadtests.sending.traffic import Traffic, begin
from turnout_loadtests.sending.users import InferenceUser

#: How often it is checked whether a load should end early.
LOOK_S = 0.1


class Caller(InferenceUser):
    """Sends each request as a call of its own."""

    @task
    def infer(self) -> None:
        super().infer()


class Streamer(Caller):
    """Sends its requests over one stream."""

    streaming = True


class Sender:
    """Carries out orders; knows the load that was prepared last."""

    def __init__(self) -> None:
        self._connect = cache(Connection)
        self._prepared: tuple[Environment, Traffic] | None = None

    def carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carries out an order and returns the answer."""
        try:
            if order["order"] == "prepare":
                self._prepare(Load(**order["load"]))
                return {"ready": True}
            self._send(order["start_s"], Path(order["samples"]))
            return {"done": True}
        except LoadTestError as error:
            return {"error": str(error)}

    def _prepare(self, load: Load) -> None:
        user = Streamer if load.streaming else Caller
        environment = Environment(user_classes=[user], host=load.host, stop_timeout=load.timeout_s + 1)
        traffic = begin(environment, self._connect(load.host, load.service_config), load)
        traffic.prepare(load.device)
        self._prepared = environment, traffic

    def _send(self, start_s: float, samples: Path) -> None:
        if self._prepared is None:
            raise LoadTestError("there is no prepared load")
        (environment, traffic), self._prepared = self._prepared, None
        runner = environment.create_local_runner()
        _sleep_until(start_s)
        runner.start(traffic.load.user_count, spawn_rate=traffic.load.user_count)
        _sleep_until(start_s + traffic.load.warm_up_s)
        traffic.recorder.start()
        _run_window(traffic, time.perf_counter() + traffic.load.duration_s)
        traffic.stop()
        runner.quit()
        traffic.close(traffic.load.timeout_s + 1)
        traffic.recorder.samples().save(samples)


def _run_window(traffic: Traffic, end_s: float) -> None:
    allowed = traffic.load.misses_allowed
    while (left_s := end_s - time.perf_counter()) > 0:
        gevent.sleep(left_s if allowed is None else min(left_s, LOOK_S))
        if allowed is not None and traffic.recorder.misses > allowed:
            return


def _sleep_until(at_s: float) -> None:
    gevent.sleep(max(0.0, at_s - time.perf_counter()))


def serve(orders: TextIO, answers: TextIO) -> None:
    """Carries out one order after another until the input ends."""
    sender = Sender()
    for line in orders:
        answers.write(json.dumps(sender.carry_out(json.loads(line))) + "\n")
        answers.flush()


def main() -> None:
    """Serves standard input and output; Locust's log goes to standard error."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    serve(gevent.fileobject.FileObject(sys.stdin.buffer, "r", encoding="utf-8"), sys.stdout)


if __name__ == "__main__":
    main()
