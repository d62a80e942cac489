"""How many bytes of requests and answers the server holds for each client, and when it takes no more.

A client is an address without its port: opening more connections doesn't give it more. One client may hold half of what all
may hold together, so that one that doesn't read its answers leaves room for the others.
"""

import threading

#: Smaller messages aren't counted: counting would cost more than it protects from. Their number is limited by other means.
COUNTED_BYTES = 65536


class InFlight:
    """The bytes held for each client. Any thread may call any method.

    Args:
        limit_bytes: of all clients together; 0 for no limit.

    Attributes:
        is_tight: whether some client, or all together, are at their limit, so that `refusal` may refuse even an empty message.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.is_tight = False
        self._limit = limit_bytes
        self._share = limit_bytes // 2
        self._total = 0
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()

    def refusal(self, peer: str, size: int) -> str | None:
        """Why a message of `size` bytes isn't taken; None if it is. One message is taken from everybody, whatever its size.

        Args:
            peer: the client as gRPC names it, such as `ipv4:192.0.2.1:4711`.
        """
        if not self._limit:
            return None
        with self._lock:
            held, total = self._held.get(client_of(peer), 0), self._total
        if held and held + size > self._share:
            return f"this client holds {_mib(held)} MiB of requests and answers, and each client may hold {_mib(self._share)}"
        if total and total + size > self._limit:
            return f"the server holds {_mib(total)} MiB of requests and answers, and may hold {_mib(self._limit)}"
        return None

    def hold(self, peer: str, size: int) -> None:
        """Counts bytes until they are released."""
        self._add(client_of(peer), size)

    def release(self, peer: str, size: int) -> None:
        """Counts bytes no longer."""
        self._add(client_of(peer), -size)

    def _add(self, client: str, size: int) -> None:
        with self._lock:
            self._total += size
            held = self._held.get(client, 0) + size
            if held:
                self._held[client] = held
            else:
                self._held.pop(client, None)
            self.is_tight = bool(self._limit) and (
                self._total >= self._limit or any(each >= self._share for each in self._held.values())
            )


def client_of(peer: str) -> str:
    """The client behind a peer: its address without the port."""
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f}"
