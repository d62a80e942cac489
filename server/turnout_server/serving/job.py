"""One request on its way through a device: whole, or in parts that are put together again."""

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from turnout_server.core.errors import ServingError, internal_error
from turnout_server.models.deployments import Deployment
from turnout_server.scheduling import batching

logger = logging.getLogger(__name__)


class Execution(NamedTuple):
    """How a run went for one of the requests in it.

    Attributes:
        outputs: arrays with this request's rows, in the order of the names it asked for.
        batch_rows: rows executed together.
        input_s, output_s: what joining the inputs and taking the outputs apart took.
    """

    outputs: list[np.ndarray]
    queue_s: float
    compute_s: float
    batch_rows: int
    input_s: float = 0.0
    output_s: float = 0.0


Outcome = Execution | ServingError


class Work:
    """One request on its way through a device. Ends exactly once; a result that comes later is dropped.

    Args:
        tenant: the model version on the device.
        kind: equal for requests that may share a run: same outputs, same shapes beyond axis 0.
        deadline_s: when it isn't worth beginning any more, on the monotonic clock; None if it always is.
        done: told the outcome, from whichever thread reached it.
        finish_s: when its answer isn't wanted any more; None if it always is.
        max_waiting: how many requests of its model and priority may wait before it; 0 for as many as the device takes.
    """

    __slots__ = (
        "_done",
        "cancelled",
        "deadline_s",
        "enqueued_s",
        "finish_s",
        "inputs",
        "kind",
        "max_waiting",
        "outputs",
        "parts",
        "priority",
        "rows",
        "tenant",
    )

    def __init__(
        self,
        tenant: Deployment,
        inputs: dict[str, np.ndarray],
        outputs: tuple[str, ...],
        rows: int,
        kind: Hashable,
        done: Callable[[Outcome], None],
        deadline_s: float | None = None,
        priority: int = 1,
        max_waiting: int = 0,
        finish_s: float | None = None,
    ) -> None:
        self.tenant = tenant
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.kind = kind
        self.deadline_s = deadline_s
        self.finish_s = finish_s
        self.priority = priority
        self.max_waiting = max_waiting
        self.enqueued_s = 0.0
        self.cancelled = False
        self.parts: list[Work] = []
        self._done = [done]

    def finish(self, outcome: Outcome) -> bool:
        """Delivers the outcome; False if another thread had done so before."""
        try:
            done = self._done.pop()  # atomic: only one thread gets it
        except IndexError:
            return False
        try:
            done(outcome)
        except Exception:  # the thread that brings an answer outlives what becomes of it
            hidden = internal_error()
            logger.exception("a request's outcome could not be delivered: %s", hidden)
            with suppress(Exception):
                done(hidden)
        return True

    def cancel(self) -> None:
        """The caller is gone: don't run this if it still waits."""
        self.cancelled = True
        for part in self.parts:
            part.cancelled = True

    def split(self, rows: Sequence[int]) -> "list[Work]":
        """One work for each of these numbers of rows; when all have ended, so has this."""
        pieces = batching.slices(self.inputs, rows)
        whole = _Rejoining(self, len(pieces))
        self.parts = [
            Work(
                self.tenant,
                inputs,
                self.outputs,
                n,
                self.kind,
                whole.part(at),
                self.deadline_s,
                self.priority,
                0,
                self.finish_s,
            )
            for at, (inputs, n) in enumerate(zip(pieces, rows, strict=True))
        ]
        for part in self.parts:
            part.enqueued_s, part.cancelled = self.enqueued_s, self.cancelled
        return self.parts


class _Rejoining:
    """Puts the parts of a request together again. The first that fails fails it, and what still waits isn't run."""

    def __init__(self, whole: Work, count: int) -> None:
        self._whole = whole
        self._done: list[Execution | None] = [None] * count
        self._left = count
        self._lock = threading.Lock()

    def part(self, at: int) -> Callable[[Outcome], None]:
        """What to tell how a part ended."""
        return lambda outcome: self._ended(at, outcome)

    def _ended(self, at: int, outcome: Outcome) -> None:
        if isinstance(outcome, ServingError):
            for part in self._whole.parts:
                part.cancelled = True
            self._whole.finish(outcome)
            return
        with self._lock:
            self._done[at] = outcome
            self._left -= 1
            if self._left:
                return
        done = [execution for execution in self._done if execution is not None]
        self._whole.finish(
            Execution(
                outputs=batching.rejoined([execution.outputs for execution in done]),
                queue_s=min(execution.queue_s for execution in done),
                compute_s=sum(execution.compute_s for execution in done),
                batch_rows=max(execution.batch_rows for execution in done),
                input_s=sum(execution.input_s for execution in done),
                output_s=sum(execution.output_s for execution in done),
            )
        )
