"""A request and its answer, free of any wire format: what the layers between codec and session pass along."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from turnout_server.errors import ServingError

if TYPE_CHECKING:
    from turnout_server.signatures import Signature


@dataclass(slots=True)
class InferRequest:
    """One inference, decoded but not yet checked against its model.

    Attributes:
        version: the version's decimal text; empty asks for the highest one that is ready.
        inputs: arrays by input name, in the datatype and shape that the client stated.
        outputs: names of the wanted outputs; empty asks for all.
        device: where to run, verbatim; empty where the client didn't say.
        timeout_us: how long the request may take from its arrival, if the client said.
        deadline_s: when the caller hangs up, on the monotonic clock.
        arrived_s: when the message was received, on the monotonic clock.
        decode_us: what decoding it took.
    """

    model: str
    version: str
    id: str
    inputs: dict[str, np.ndarray]
    outputs: tuple[str, ...] = ()
    device: str = ""
    timeout_us: int | None = None
    deadline_s: float | None = None
    arrived_s: float = 0.0
    decode_us: int = 0


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
