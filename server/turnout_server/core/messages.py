"""A request and its answer, free of any wire format: what the layers between codec and session pass along."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from turnout_server.core.errors import ServingError

if TYPE_CHECKING:
    from turnout_server.core.signatures import Signature


class Layout:
    """What requests that differ only in their ids and numbers have in common.

    Attributes:
        kind: equal for requests whose rows can be joined: they want the same outputs, and their inputs agree beyond axis 0.
        plan: what the data plane worked out for them; None until it has.
    """

    __slots__ = ("kind", "plan")

    def __init__(self, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...]) -> None:
        self.kind: Hashable = (outputs, *((name, inputs[name].shape[1:]) for name in sorted(inputs)))
        self.plan: object | None = None


@dataclass(slots=True)
class InferRequest:
    """One inference, decoded but not yet checked against its model.

    Attributes:
        version: the version's decimal text; empty asks for the highest one that is ready.
        inputs: arrays by input name, in the datatype and shape that the client stated.
        outputs: names of the wanted outputs; empty asks for all.
        device: where to run, verbatim; empty where the client didn't say.
        timeout_us: how long the request may take from its arrival, if the client said.
        objective: what decides between devices: `latency`, `cost` or `energy`; empty where the client didn't say.
        precision: that of the only files that will do; empty for any.
        priority: 1 for the most urgent; 0 where the client didn't say.
        deadline_s: when the caller hangs up, on the monotonic clock.
        arrived_s: when the message was received, on the monotonic clock.
        decode_us: what decoding it took.
        layout: shared with the requests that are like it; its own where none is.
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
    layout: Layout = field(default=None)  # type: ignore[assignment]  # made below

    def __post_init__(self) -> None:
        if self.layout is None:
            self.layout = Layout(self.inputs, self.outputs)


class Origin(NamedTuple):
    """Who answered, where and why there: the same for many answers. The last four are response parameters."""

    model: str
    version: str
    device: str
    device_requested: str
    route_reason: str
    precision: str


@dataclass(slots=True)
class InferResponse:
    """The answer: outputs by name, in the model's order, and what happened on the way.

    Attributes:
        signature: of the model version that answered.
        figures: the response parameters that are numbers (`queue_us`, `batch_size`, ...; see docs/protocol.md).
    """

    origin: Origin
    id: str
    signature: "Signature"
    outputs: dict[str, np.ndarray]
    figures: Mapping[str, int]


def nothing_to_cancel() -> None:
    """What cancels a request that isn't on its way: not yet, or not any more."""


#: How a request ends: with its answer, or with what went wrong. Called exactly once, from whichever thread got there.
Done = Callable[[InferResponse | ServingError], None]
