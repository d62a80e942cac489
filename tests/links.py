"""A TCP link between a client and a server that fails as networks do: it loses everything and tells nobody, or is slow."""

import socket
import threading
import time
from contextlib import suppress


class Link:
    """Listens at `address` and carries all connections to a server.

    Args:
        target: HOST:PORT of the server.
        bytes_per_s: how fast each connection is, each way; 0 for as fast as it goes.
    """

    def __init__(self, target: str, bytes_per_s: float = 0.0) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._bytes_per_s = bytes_per_s
        self._cut = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        #: What the server sees as its clients' ports.
        self.ports: set[int] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Loses everything from now on; both sides keep their connections and hear nothing."""
        self._cut.set()

    def close(self) -> None:
        """Ends all connections."""
        for each in (self._listening, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._target)
                self.ports.add(server.getsockname()[1])
                self._sockets += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                if self._cut.is_set():
                    continue
                if self._bytes_per_s:
                    time.sleep(len(data) / self._bytes_per_s)
                sink.sendall(data)
            if not self._cut.is_set():
                sink.shutdown(socket.SHUT_WR)
