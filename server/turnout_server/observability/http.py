"""The monitoring port: /metrics for Prometheus, /healthz and /readyz for probes, /explain for people."""

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

from turnout_server.explain import http as explain_http
from turnout_server.explain.answer import Explanation, Question
from turnout_server.transport import addresses

Explain = Callable[[Question], Explanation]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class MonitoringServer:
    """Serves in threads of its own from `start` to `stop`.

    Args:
        host: a name or an address; IPv6 without brackets.
        ready: called for every /readyz.
        explain: called for every /explain; may raise what `Explainer.explain` raises.

    Raises:
        OSError: the address can't be bound.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, ready: Callable[[], bool], explain: Explain) -> None:
        addresses.require_free(addresses.target(host, port))
        family, address = addresses.resolve(host, port)
        try:
            self._server = _Server(family, address)
        except OSError as error:
            raise OSError(f"cannot listen on {addresses.target(host, port)}: {error.strerror}") from None
        self._server.set_app(_application(registry, ready, explain))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitoring", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    """Answers also when the process has no file descriptors left, because it keeps one in reserve."""

    daemon_threads = True
    _reserve: int | None = None

    def get_request(self) -> Any:
        with suppress(OSError):  # none is free at the moment
            self._reserve = os.open(os.devnull, os.O_RDONLY) if self._reserve is None else self._reserve
        try:
            return super().get_request()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or self._reserve is None:
                raise
        os.close(self._reserve)
        self._reserve = None
        return super().get_request()

    def server_close(self) -> None:
        super().server_close()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int]) -> None:
        self.address_family = family
        super().__init__(address, _QuietHandler)

    def server_bind(self) -> None:
        addresses.listens_to_both(self.socket)
        # WSGIServer would look up the host's name, which can take seconds where DNS is slow.
        super(WSGIServer, self).server_bind()
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()


class _QuietHandler(WSGIRequestHandler):
    timeout = 10  # seconds, after which a silent client loses its thread

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: scrapes come all the time."""


def _application(registry: CollectorRegistry, ready: Callable[[], bool], explain: Explain) -> Any:
    metrics = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            body: Iterable[bytes] = metrics(environ, start_response)
            return body
        if path == "/healthz":
            return _plain(start_response, "200 OK", "live")
        if path == "/readyz":
            return _plain(start_response, *(("200 OK", "ready") if ready() else ("503 Service Unavailable", "not ready")))
        if path == explain_http.PATH:
            return _answer(start_response, *explain_http.answer(explain, environ["QUERY_STRING"]))
        return _plain(start_response, "404 Not Found", "there are /metrics, /healthz, /readyz and /explain")

    return application


def _plain(start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    return _answer(start_response, status, "text/plain; charset=utf-8", f"{text}\n")


def _answer(start_response: StartResponse, status: str, content_type: str, body: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", content_type)])
    return [body.encode()]
