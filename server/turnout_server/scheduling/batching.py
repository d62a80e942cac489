"""How many rows run together, and how rows are joined and taken apart again. Pure functions."""

from collections.abc import Callable, Sequence

import numpy as np

from turnout_server.scheduling.entries import Selection, W, unwanted

#: A larger batch must make a row cheaper by this share to be worth its requests' waiting for each other.
WORTH = 0.05
#: Waiting rows are shared out between idle workers if that makes no more than this share of work in addition.
SHARING = 0.25
#: A run shorter than this isn't worth splitting, whatever its rows.
SPLIT_US = 2000.0

#: Microseconds that a run of so many rows takes; None if that was never measured.
Predict = Callable[[int], float | None]


def best_rows(measured: Predict, limit: int, target_us: float | None = None) -> int:
    """The most rows worth joining in one run: the smallest power of two, or `limit`, that makes a row as cheap as it gets.

    What was never measured is tried: twice the best where that is the largest known, and everything while there is nothing
    to compare.

    Args:
        measured: what a run of exactly so many rows takes, in microseconds.
        limit: the most rows a run may have.
        target_us: no run should take longer, if fewer rows can help it.
    """
    row_us = {size: us / size for size in _sizes(limit) if (us := measured(size)) is not None}
    if len(row_us) < 2:
        known_us = next(iter(row_us.values()), 0.0)
        return limit if not target_us or known_us * limit <= target_us else max(1, int(target_us / known_us))
    in_time = {size: us for size, us in row_us.items() if target_us is None or us * size <= target_us}
    if not in_time:
        return 1
    enough_us = min(in_time.values()) * (1 + WORTH)
    best = next(size for size, us in in_time.items() if us <= enough_us)
    return min(limit, 2 * best) if best == max(row_us) else best


def neighbours(rows: int, limit: int) -> list[int]:
    """The sizes next to it among those that `best_rows` compares: the larger one first."""
    larger = [size for size in _sizes(limit) if size > rows]
    smaller = [size for size in _sizes(limit) if size < rows]
    return larger[:1] + smaller[-1:]


def _sizes(limit: int) -> list[int]:
    return [size for size in (1 << bit for bit in range(limit.bit_length())) if size < limit] + [limit]


def rows_to_take(waiting: int, cap: int, preferred: Sequence[int] = ()) -> int:
    """How many of the waiting rows run together: a preferred number if they suffice for one, else as many as may."""
    most = min(waiting, cap)
    return max((size for size in preferred if size <= most), default=most)


def rows_for_one(waiting: int, most: int, workers: int, predict: Predict) -> int:
    """How many of the waiting rows an idle worker takes: an even share, where other workers are idle, too.

    On a CPU several runs with a thread each are that much sooner done; on a GPU one run of all is little more work than each of
    them, and takes all.

    Args:
        most: what it takes if it is the only one.
        workers: the idle ones, itself included.
    """
    even = -(-waiting // workers)
    together_us, share_us = predict(most), predict(even)
    if even >= most or together_us is None or share_us is None:
        return most
    return even if share_us * most <= together_us * even * (1 + SHARING) else most


def parts(rows: int, cap: int, predict: Predict) -> list[int]:
    """The rows of each run that a request of so many is split into; one where splitting it isn't worth it."""
    if rows <= cap or (predict(rows) or 0.0) < SPLIT_US:
        return [rows]
    full, rest = divmod(rows, cap)
    return [cap] * full + [rest] * (rest > 0)


def runs_us(rows: int, cap: int, predict: Predict) -> float:
    """What so many rows take, in runs of at most `cap`; 0 where nothing was measured."""
    full, rest = divmod(rows, cap)
    return full * (predict(cap) or 0.0) + ((predict(rest) or 0.0) if rest else 0.0)


def select(queue: Sequence[W], now_s: float) -> tuple[Selection[W], list[W]]:
    """The next run of a short queue, and what it leaves: the oldest live request, and those behind it that fit, in their order.

    The cancelled and the expired leave here, before they cost anything, and never disturb the others.
    """
    selection: Selection[W] = Selection()
    rest: list[W] = []
    rows = 0
    for item in queue:
        if unwanted(item, now_s):
            selection.drop(item)
        elif not selection.batch:
            selection.batch.append(item)
            first, rows = item, item.rows
        elif item.tenant is first.tenant and item.kind == first.kind and rows + item.rows <= item.tenant.cap:
            selection.batch.append(item)
            rows += item.rows
        else:
            rest.append(item)
    return selection, rest


def collate(requests: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins the inputs of several requests along axis 0; those of a single one are passed on as they are.

    Arrays that are views of a message may lie at any address; what comes out is aligned, as runtimes rely on.
    """
    first = requests[0]
    if len(requests) == 1:
        return {name: array if array.flags.aligned else array.copy() for name, array in first.items()}
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
    separate, start = [], 0
    for n in rows:
        separate.append([output[start : start + n] for output in outputs])
        start += n
    return separate


def slices(inputs: dict[str, np.ndarray], rows: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Inputs (sum(rows), ...) as those of one run after another: views, no copies."""
    separate, start = [], 0
    for n in rows:
        separate.append({name: array[start : start + n] for name, array in inputs.items()})
        start += n
    return separate


def rejoined(outputs: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The outputs of several runs as those of one, in the runs' order."""
    return [np.concatenate(arrays) for arrays in zip(*outputs, strict=True)]
