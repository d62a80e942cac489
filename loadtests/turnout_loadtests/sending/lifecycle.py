"""What happens around a test that Locust runs: connect, check, warm up, measure, save. Importing this registers it."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

import gevent
from grpc import StatusCode
from locust import events
from locust.env import Environment
from locust.exception import StopTest
from locust.runners import MasterRunner, WorkerRunner

from turnout_loadtests.client import TEMPORARY, reason
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.formatting import three_digits
from turnout_loadtests.sending import page
from turnout_loadtests.sending.board import REPORT, Board
from turnout_loadtests.sending.connection import Connection
from turnout_loadtests.sending.load import Load
from turnout_loadtests.sending.options import DEFAULT_HOST, load_of
from turnout_loadtests.sending.samples import OK
from turnout_loadtests.sending.traffic import Traffic, begin, forget, traffic_of
from turnout_loadtests.sending.users import InferenceUser

logger = logging.getLogger(__name__)

#: A message from a worker that can't start its part of a test, with the reason.
CANNOT_START = "turnout_cannot_start"
PROBE_TIMEOUT_S = 30.0
EXIT_CANNOT_START, EXIT_MISSED_TARGET = 2, 1

connection_to = cache(Connection)  # first called when a test starts: a channel doesn't survive the fork of `--processes`


class Lifecycle:
    """The listeners of one Locust process."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._board = Board()
        self._timers: list[gevent.Greenlet] = []
        options: Any = environment.parsed_options
        environment.stop_timeout = environment.stop_timeout or options.timeout + 1
        listeners = (
            ("test_start", self._start), ("test_stopping", self._stopping), ("test_stop", self._stop),
            ("request", self._request), ("report_to_master", self._report), ("worker_report", self._reported),
            ("quitting", self._quitting),
        )  # fmt: skip
        for name, listener in listeners:
            getattr(environment.events, name).add_listener(listener)
        if isinstance(environment.runner, MasterRunner):
            environment.runner.register_message(CANNOT_START, self._refused)
        for user in self._inference_users():
            user.host = self._host
        if not isinstance(environment.runner, WorkerRunner) and not options.user_classes:
            self._leave_out_missing()
        if environment.web_ui is not None:
            page.extend(environment, self._board, self._check)

    def _leave_out_missing(self) -> None:
        """Leaves out the user classes whose device the server doesn't have, as long as nobody named them."""
        load = load_of(self._options, self._host)
        classes = self._environment.user_classes
        try:
            reasons = {user: self._why_unavailable(load, load.device or user.device) for user in self._inference_users()}
        except LoadTestError as error:
            logger.warning("the server can't be asked for its devices yet: %s", error)
            return
        missing = [user for user, why in reasons.items() if why]
        if len(missing) < len(classes):
            for user in missing:
                logger.warning("%s is left out: %s", user.__name__, reasons[user])
                (self._environment.available_user_classes or {}).pop(user.__name__, None)
            classes[:] = [user for user in classes if user not in missing]

    def _why_unavailable(self, load: Load, device: str) -> str | None:
        connection = connection_to(load.host, load.service_config)
        _, requests = connection.requests(load, device)
        error = connection.infer.future(requests[0], timeout=PROBE_TIMEOUT_S).exception()
        return str(error.details()) if error is not None and error.code() == StatusCode.FAILED_PRECONDITION else None

    def _start(self, **_: Any) -> None:
        """Connects, builds the requests, and starts the timers of warm-up and duration."""
        runner, options = self._runner, self._options
        self._board.clear()
        forget(self._environment)
        try:
            load = self._load()
            if not isinstance(runner, WorkerRunner):
                self._check(options, self._host)
            if not isinstance(runner, MasterRunner):
                traffic = begin(self._environment, connection_to(self._host, load.service_config), load)
                for user in self._inference_users():
                    traffic.prepare(load.device or user.device)
        except LoadTestError as error:
            self._cannot_start(error)
            return
        self._timers = [gevent.spawn_later(load.warm_up_s, self._measure)]
        if load.duration_s and not isinstance(runner, WorkerRunner):
            end = runner.quit if options["headless"] else runner.stop
            self._timers.append(gevent.spawn_later(load.warm_up_s + load.duration_s, end))

    def _measure(self) -> None:
        """Begins the window, and Locust's own figures with it: they count from here."""
        self._environment.stats.reset_all()
        self._board.clear()
        if (traffic := self._traffic) is not None:
            traffic.recorder.start()

    def _stopping(self, **_: Any) -> None:
        """Ends the window once the users are told to stop; requests in flight still finish."""
        for timer in self._timers:
            if timer is not gevent.getcurrent():
                timer.kill(block=False)
        if (traffic := self._traffic) is not None:
            traffic.stop()

    def _stop(self, **_: Any) -> None:
        """Writes this process's samples to the file that `--samples` names; a worker adds its number to the name."""
        traffic, runner = self._traffic, self._runner
        if traffic is None:
            return
        traffic.close(traffic.load.timeout_s + 1)
        if given := self._options["samples"]:
            path = Path(given)
            if isinstance(runner, WorkerRunner):
                path = path.with_stem(f"{path.stem}-{runner.worker_index}")
            traffic.recorder.samples().save(path)

    def _request(self, name: str, exception: Exception | None, context: Any, **_: Any) -> None:
        if exception is None and context.get("code") == OK:
            self._board.add(name, context)

    def _report(self, data: dict[str, Any], **_: Any) -> None:
        data[REPORT] = self._board.take()

    def _reported(self, data: dict[str, Any], **_: Any) -> None:
        self._board.merge(data.get(REPORT, {}))

    def _quitting(self, **_: Any) -> None:
        """Fails a test that missed its latency target, or has no answer that could tell. The master judges for its workers."""
        if isinstance(self._runner, WorkerRunner) or not self._timers or self._environment.process_exit_code:
            return
        total = self._environment.stats.total
        answers = total.num_requests - total.num_failures
        p99_ms = float(total.get_response_time_percentile(0.99)) if answers else None
        if why := missed(float(self._options["slo_p99_ms"] or 0), p99_ms):
            logger.error("%s", why)
            self._environment.process_exit_code = EXIT_MISSED_TARGET

    def _check(self, options: dict[str, Any], host: str) -> None:
        """Sends one request for each user class, so that what can't work is said before the test starts.

        Raises:
            LoadTestError: one of them is refused, or its requests can't be built.
        """
        load = load_of(options, host or DEFAULT_HOST)
        connection = Connection(load.host, load.service_config)
        for device in dict.fromkeys(load.device or user.device for user in self._chosen(options)):
            _, requests = connection.requests(load, device)
            call = connection.infer.future(requests[0], timeout=PROBE_TIMEOUT_S)
            if (error := call.exception()) is not None and error.code() not in TEMPORARY:
                raise LoadTestError(f"a request for '{device}' fails with {reason(error)}")

    def _chosen(self, options: dict[str, Any]) -> list[type[InferenceUser]]:
        """The user classes that a test would run: of the page's class picker, else Locust's."""
        available: Any = self._environment.available_user_classes or {}
        picked = options.get("user_classes") or []
        return [available[name] for name in picked if name in available] or self._inference_users()

    def _inference_users(self) -> list[type[InferenceUser]]:
        """The user classes that run and are of these load tests."""
        return [user for user in self._environment.user_classes if issubclass(user, InferenceUser)]

    def _cannot_start(self, error: LoadTestError) -> None:
        """Says why on the page and in the log, and stops the test."""
        runner = self._runner
        self._environment.process_exit_code = EXIT_CANNOT_START
        if isinstance(runner, WorkerRunner):
            runner.send_message(CANNOT_START, {"reason": str(error)})
            return
        runner.log_exception("local", str(error), "")
        if not isinstance(runner, MasterRunner):
            raise StopTest(str(error)) from error
        logger.error("%s", error)
        self._end()

    def _refused(self, msg: Any, **_: Any) -> None:
        """A worker couldn't start: the master stops the test."""
        self._runner.log_exception(msg.node_id, msg.data["reason"], "")
        logger.error("%s", msg.data["reason"])
        self._environment.process_exit_code = EXIT_CANNOT_START
        self._end()

    def _end(self) -> None:
        gevent.spawn(self._runner.quit if self._options["headless"] else self._runner.stop)

    def _load(self) -> Load:
        return load_of(self._options, self._host)

    @property
    def _traffic(self) -> Traffic | None:
        return traffic_of(self._environment)

    @property
    def _runner(self) -> Any:
        return self._environment.runner

    @property
    def _options(self) -> dict[str, Any]:
        return vars(self._environment.parsed_options)

    @property
    def _host(self) -> str:
        return self._environment.host or str(InferenceUser.host)


def missed(target_ms: float, p99_ms: float | None) -> str:
    """Why a test didn't keep its target; empty if it did, or has none (0). p99 is None if no request was answered."""
    if not target_ms:
        return ""
    if p99_ms is None:
        return f"no request was answered while it was measured, so p99 can't be within {target_ms:g} ms: measure for longer"
    return f"p99 is {three_digits(p99_ms)} ms, and the target {target_ms:g} ms" if p99_ms > target_ms else ""


def install(environment: Environment, **_: Any) -> None:
    """Registers the listeners, once Locust has made its environment and its page."""
    Lifecycle(environment)


events.init.add_listener(install)  # type: ignore[no-untyped-call]
