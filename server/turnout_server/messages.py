"""A request and its answer, free of any wire format: what the layers between codec and session pass along."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from turnout_server.errors import ServingError

if TYPE_CHECKING:
    from turnout_server.signatures import Signature


class Layout:
    """What requests that differ only in their numbers have in common, and what was found out about it.

    Attributes:
        kind: equal for requests whose rows can be joined: they want the same outputs, and their inputs agree beyond axis 0.
        checked: the signature that such a request was found to fit, and its rows.
    """

    __slots__ = ("checked", "kind")

    def __init__(self, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...]) -> None:
        self.kind: Hashable = (outputs, *((name, inputs[name].shape[1:]) for name in sorted(inputs)))
        self.checked: tuple[Signature | None, int] = (None, 0)


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


@dataclass(slots=True)
class InferResponse:
    """The answer: outputs by name, in the model's order, and what happened on the way.

    Attributes:
        signature: of the model version that answered.
        parameters: the response parameters of docs/protocol.md (`device`, `route_reason`, `queue_us`, ...).
    """

    model: str
    version: str
    id: str
    signature: "Signature"
    outputs: dict[str, np.ndarray]
    parameters: Mapping[str, str | int] = field(default_factory=dict)


#: How a request ends: with its answer, or with what went wrong. Called exactly once, from whichever thread got there.
Done = Callable[[InferResponse | ServingError], None]
