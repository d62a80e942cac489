"""Which waiting requests run together, and how their rows are joined and taken apart again. Pure functions."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np


class Waiting(Protocol):
    """What a decision needs to know of a waiting request.

    Attributes:
        key: equal for requests that may share a run: same model version, same outputs, same shapes beyond axis 0.
        rows: how many rows it adds to a batch.
        max_rows: the most rows that a run of its model takes on this device.
        deadline_s: when its caller stops caring, on the monotonic clock; None if never.
        cancelled: its caller is gone.
    """

    @property
    def key(self) -> Hashable: ...
    @property
    def rows(self) -> int: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def deadline_s(self) -> float | None: ...
    @property
    def cancelled(self) -> bool: ...


W = TypeVar("W", bound=Waiting)


@dataclass(frozen=True)
class Selection(Generic[W]):
    """What to do with the front of a queue: run these together, drop those, leave the rest waiting."""

    batch: list[W]
    expired: list[W]
    cancelled: list[W]
    rest: list[W]


def select(queue: Sequence[W], now_s: float) -> Selection[W]:
    """Forms the next batch: the oldest live request and those behind it that fit its run, in their order.

    The cancelled and the expired leave here, before they cost anything, and never disturb the others.
    """
    selection: Selection[W] = Selection([], [], [], [])
    rows = 0
    for item in queue:
        if item.cancelled:
            selection.cancelled.append(item)
        elif item.deadline_s is not None and item.deadline_s <= now_s:
            selection.expired.append(item)
        elif not selection.batch or (item.key == selection.batch[0].key and rows + item.rows <= item.max_rows):
            selection.batch.append(item)
            rows += item.rows
        else:
            selection.rest.append(item)
    return selection


def collate(requests: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins the inputs of several requests along axis 0; those of a single one are passed on as they are."""
    first = requests[0]
    if len(requests) == 1:
        return first
    return {name: np.concatenate([inputs[name] for inputs in requests]) for name in first}


def scatter(outputs: Sequence[np.ndarray], rows: Sequence[int]) -> list[list[np.ndarray]]:
    """Takes outputs (sum(rows), ...) apart into one list of arrays (rows[i], ...) for each request: views, no copies.

    Raises:
        ValueError: an output hasn't as many rows as went in, so nobody can say whose they are.
    """
    if len(rows) == 1:
        return [list(outputs)]
    total = sum(rows)
    for output in outputs:
        if output.shape[:1] != (total,):
            raise ValueError(f"a run of {total} rows gave an output of shape {list(output.shape)}")
    ends = np.cumsum(rows)
    return [[output[end - n : end] for output in outputs] for n, end in zip(rows, ends.tolist(), strict=True)]
