"""Locust users that send inferences. Importing this module prepares gRPC for gevent, so import it before a channel exists.

All users of a process share one channel and wait on `.future(...)`. A blocking call would hold one of the ten threads of
gevent's pool until it ends, so that fast calls would wait for slow ones.
"""

import random
import time
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import gevent
import grpc
import locust.stats
from grpc.experimental.gevent import init_gevent  # type: ignore[import-not-found]
from locust import User, events
from locust.env import Environment
from locust.exception import StopTest
from locust.runners import MasterRunner, WorkerRunner
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from turnout_loadtests.buckets import three_significant_digits
from turnout_loadtests.client import connect, model_metadata, number, read_service_config, reason, text
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.payloads import parse_shape, read_inputs, request_pool
from turnout_loadtests.samples import Recorder, Sample

init_gevent()
gevent.get_hub().threadpool.maxsize = 64
gevent.get_hub().NOT_ERROR += (StopTest,)  # Locust logs the text; the hub would add a traceback
locust.stats.bucket_response_time = three_significant_digits  # type: ignore[assignment]

shared_stub = cache(connect)  # first called when a test starts: a channel doesn't survive the fork of `--processes`


class InferenceFailed(Exception):
    """An RPC that got no answer. Its text is the same for the same cause, so that Locust can count causes."""


class InferenceUser(User):
    """Sends inferences one after another. All users of the process share the attributes of the class."""

    abstract = True
    host = "127.0.0.1:8001"

    stub: ClassVar[Stub]
    requests: ClassVar[list[pb.ModelInferRequest]]
    label: ClassVar[str]
    timeout_s: ClassVar[float]
    recorder: ClassVar[Recorder] = Recorder()

    def on_start(self) -> None:
        self._next_request = cycle(random.sample(self.requests, len(self.requests)))

    def infer(self) -> None:
        """Sends one request and records how it ended; if the user is killed meanwhile, it is cancelled and leaves no sample."""
        began_s = time.perf_counter()
        call = self.stub.ModelInfer.future(next(self._next_request), timeout=self.timeout_s)
        try:
            outcome = call.result()
        except grpc.RpcError as error:
            outcome = error
        except gevent.GreenletExit:
            call.cancel()
            raise
        self._record(sample_of(outcome, began_s, time.perf_counter()), outcome)

    def _record(self, sample: Sample, outcome: pb.ModelInferResponse | grpc.RpcError) -> None:
        self.recorder.add(sample)
        if not self.recorder.counts(sample.began_s):
            return
        if isinstance(outcome, grpc.RpcError):
            # Locust leaves a time of None out of its histogram. Refusals are quick and would make the server look fast.
            ending: dict[str, Any] = {
                "response_time": None,
                "response_length": 0,
                "exception": InferenceFailed(reason(outcome)),
            }
        else:
            service_ms = (sample.ended_s - sample.began_s) * 1e3
            ending = {"response_time": service_ms, "response_length": outcome.ByteSize(), "exception": None}
        self.environment.events.request.fire(request_type="grpc", name=self.label, context=sample._asdict(), **ending)


def sample_of(outcome: pb.ModelInferResponse | grpc.RpcError, began_s: float, ended_s: float) -> Sample:
    """The sample of a finished request, with what the server states in its answer."""
    if isinstance(outcome, grpc.RpcError):
        return Sample(began_s, ended_s, outcome.code().name, device="", batch_size=0, queue_us=0, compute_us=0)
    stated = outcome.parameters
    return Sample(
        began_s,
        ended_s,
        code="OK",
        device=text(stated, "device") or "unstated",
        batch_size=number(stated, "batch_size"),
        queue_us=number(stated, "queue_us"),
        compute_us=number(stated, "compute_us"),
    )


def prepare(environment: Environment, **_: Any) -> None:
    """Connects, reads the model's metadata, builds the requests, and starts the timers of warm-up and duration."""
    runner: Any = environment.runner
    options: Any = environment.parsed_options
    InferenceUser.recorder = Recorder()
    if not isinstance(runner, MasterRunner):
        try:
            _prepare(environment.host or str(InferenceUser.host), options)
        except LoadTestError as error:
            environment.process_exit_code = 2
            raise StopTest(str(error)) from error
        gevent.spawn_later(options.warm_up, InferenceUser.recorder.start)
    if options.duration and not isinstance(runner, WorkerRunner):
        gevent.spawn_later(options.warm_up + options.duration, runner.quit if options.headless else runner.stop)


def _prepare(host: str, options: Any) -> None:
    InferenceUser.stub = shared_stub(host, read_service_config(options.service_config))
    metadata = model_metadata(InferenceUser.stub, options.model)
    InferenceUser.requests = request_pool(
        metadata,
        device=options.device,
        batch=options.batch,
        shapes=dict(parse_shape(text) for text in options.shape.split()),
        inputs=read_inputs(Path(options.inputs)) if options.inputs else None,
    )
    InferenceUser.label = f"{metadata.name} {options.device} b{options.batch}"
    InferenceUser.timeout_s = options.request_timeout


def end_window(**_: Any) -> None:
    """Ends the measured window once the users are told to stop; requests in flight still finish."""
    InferenceUser.recorder.stop()


def save(environment: Environment, **_: Any) -> None:
    """Writes this process's samples to the file that `--samples` names; a worker adds its number to the name."""
    options: Any = environment.parsed_options
    if options.samples and not isinstance(environment.runner, MasterRunner):
        path = Path(options.samples)
        if isinstance(environment.runner, WorkerRunner):
            path = path.with_stem(f"{path.stem}-{environment.runner.worker_index}")
        InferenceUser.recorder.samples().save(path)


for event, listener in ((events.test_start, prepare), (events.test_stopping, end_window), (events.test_stop, save)):
    event.add_listener(listener)  # type: ignore[no-untyped-call]
