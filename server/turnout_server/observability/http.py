"""The monitoring port: an HTTP server that answers GET and HEAD for a fixed set of paths, in threads of its own."""

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

from turnout_server.transport import addresses

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class Answer(NamedTuple):
    """An HTTP response."""

    status: str
    content_type: str
    body: str
    headers: tuple[tuple[str, str], ...] = ()


#: Answers requests for one path. Receives the query string.
Route = Callable[[str], Answer]


def plain(status: str, text: str) -> Answer:
    """A line of text."""
    return Answer(status, "text/plain; charset=utf-8", f"{text}\n")


def probe(holds: Callable[[], bool], yes: str, no: str) -> Route:
    """Answers with 200 while something holds, and with 503 while it doesn't."""
    return lambda _: plain("200 OK", yes) if holds() else plain("503 Service Unavailable", no)


class MonitoringServer:
    """Serves from `start` to `stop`.

    Args:
        host: a name or an address; IPv6 without brackets.
        registry: what /metrics shows.
        routes: answers the other paths.

    Raises:
        OSError: the address can't be bound.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, routes: Mapping[str, Route]) -> None:
        addresses.require_free(addresses.target(host, port))
        family, address = addresses.resolve(host, port)
        try:
            self._server = _Server(family, address)
        except OSError as error:
            raise OSError(f"cannot listen on {addresses.target(host, port)}: {error.strerror}") from None
        self._server.set_app(_application(registry, routes))
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


def _application(registry: CollectorRegistry, routes: Mapping[str, Route]) -> Any:
    metrics = make_wsgi_app(registry)
    paths = ", ".join(["/metrics", *routes])

    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if method not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD"), ("Content-Length", "0")])
            return []
        started: list[tuple[str, list[tuple[str, str]]]] = []
        if path == "/metrics":  # prometheus_client knows formats and compression, but refuses HEAD
            ask = {**environ, "REQUEST_METHOD": "GET"}
            body = b"".join(metrics(ask, lambda status, headers: started.append((status, headers))))
        else:
            answer = routes[path](environ["QUERY_STRING"]) if path in routes else plain("404 Not Found", f"there are {paths}")
            started.append((answer.status, [("Content-Type", answer.content_type), *answer.headers]))
            body = answer.body.encode()
        ((status, headers),) = started
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [body] if method == "GET" else []

    return application
