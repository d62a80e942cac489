"""A request and its answer, independent of the wire format: what the layers between codec and session exchange."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from turnout_server.core.errors import ServingError

if TYPE_CHECKING:
    from turnout_server.core.signatures import Signature


class Layout:
    """The common part of requests that differ only in their ids and their tensors' values.

    The codec gives requests that are laid out alike the same Layout object, so it can serve as a cache key.

    Attributes:
        batch_key: equal for requests that may be batched: they want the same outputs, and their inputs have the same shapes
            beyond axis 0.
    """

    __slots__ = ("__weakref__", "batch_key")

    def __init__(self, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...]) -> None:
        self.batch_key: Hashable = (outputs, *((name, inputs[name].shape[1:]) for name in sorted(inputs)))


@dataclass(slots=True)
class InferRequest:
    """One inference request, decoded but not yet checked against its model.

    Attributes:
        version: the version's decimal text; empty asks for the highest version that is ready.
        inputs: arrays by input name, in the datatype and shape that the client stated.
        outputs: names of the wanted outputs; empty asks for all.
        device: where to run, verbatim; empty if the client didn't say.
        timeout_us: how long the request may take from its arrival; None if the client didn't say.
        objective: what decides between devices: `latency`, `cost` or `energy`; empty if the client didn't say.
        precision: only a file of this precision may answer; empty for any.
        priority: 1 is the most urgent; 0 if the client didn't say.
        deadline_s: when the client stops waiting, on the monotonic clock; None if it never does.
        arrived_s: when the message was received, on the monotonic clock.
        decode_us: how long decoding took.
        layout: shared by requests that are laid out alike; made from the inputs and outputs if not given.
    """

    model: str
    version: str
    id: str
    inputs: dict[str, np.ndarray]
    outputs: tuple[str, ...] = ()
    device: str = ""
    timeout_us: int | None = None
    objective: str = ""
    precision: str = ""
    priority: int = 0
    deadline_s: float | None = None
    arrived_s: float = 0.0
    decode_us: int = 0
    layout: Layout = field(default=None)  # type: ignore[assignment]  # set in __post_init__

    def __post_init__(self) -> None:
        if self.layout is None:
            self.layout = Layout(self.inputs, self.outputs)


class Provenance(NamedTuple):
    """Which model version answered, where, and why there. The last four fields are response parameters."""

    model: str
    version: str
    device: str
    device_requested: str
    route_reason: str
    precision: str


@dataclass(slots=True)
class InferResponse:
    """The answer: outputs by name in the model's order, and how it was computed.

    Attributes:
        signature: of the model version that answered.
        timings: the numeric response parameters (`queue_us`, `batch_size`, ...; docs/protocol.md lists them).
    """

    provenance: Provenance
    id: str
    signature: "Signature"
    outputs: dict[str, np.ndarray]
    timings: Mapping[str, int]


def nothing_to_cancel() -> None:
    """The cancel function of a request that isn't in flight: does nothing."""


#: Receives a request's outcome exactly once, from whichever thread has it. Returns the error that kept the answer from being
#: delivered (it can't be encoded as the client asked, for example), or None.
Done = Callable[[InferResponse | ServingError], ServingError | None]
