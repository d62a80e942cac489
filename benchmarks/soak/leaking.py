"""A server that keeps a little of each request: what the soak test must notice. `python -m benchmarks.soak.leaking FLAGS`."""

from collections.abc import Callable

from turnout_server.core.messages import Done, InferRequest
from turnout_server.serving.dataplane import DataPlane
from turnout_server.serving.inline import InlineRunner

#: What is kept of each request: about 60 MiB of a million.
LEAK_BYTES = 64
_kept: list[bytes] = []


def leak() -> None:
    """Has every request of this process leave something behind."""
    infer = DataPlane.infer

    def leaking(self: DataPlane, request: InferRequest, done: Done, inline: InlineRunner | None = None) -> Callable[[], None]:
        _kept.append(bytes(LEAK_BYTES))
        return infer(self, request, done, inline)

    DataPlane.infer = leaking  # type: ignore[method-assign]


if __name__ == "__main__":
    leak()
    from turnout_server.entry import main

    main()
