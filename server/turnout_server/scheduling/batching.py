"""How many rows run together, and how requests are joined into a batch and split again. Pure functions."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from turnout_server.scheduling.entries import E, Selection, is_stale

#: A larger batch must make a row cheaper by this share to be worth the waiting that it causes.
MIN_GAIN = 0.05
#: Runs between two reviews of the best batch size.
REVIEW_RUNS = 8
#: Waiting rows are divided among idle workers if that adds no more than this share of work.
MAX_EXTRA_WORK = 0.25
#: A run that is shorter than this isn't split, whatever its rows.
MIN_SPLIT_US = 2000.0

#: Microseconds that a run of so many rows takes; None if that was never measured.
Predict = Callable[[int], float | None]


def best_rows(measured: Predict, limit: int, target_us: float | None = None) -> int:
    """The most rows worth batching: the smallest power of two, or `limit`, at which a row is as cheap as it gets.

    Sizes that were never measured are tried: twice the best one if that is the largest known, and everything while there is
    nothing to compare.

    Args:
        measured: microseconds of a run of exactly so many rows.
        limit: the most rows a run may have.
        target_us: runs should not take longer than this.
    """
    row_us = {size: us / size for size in _sizes(limit) if (us := measured(size)) is not None}
    if len(row_us) < 2:
        known_us = next(iter(row_us.values()), 0.0)
        return limit if not target_us or known_us * limit <= target_us else max(1, int(target_us / known_us))
    in_time = {size: us for size, us in row_us.items() if target_us is None or us * size <= target_us}
    if not in_time:
        return 1
    enough_us = min(in_time.values()) * (1 + MIN_GAIN)
    best = next(size for size, us in in_time.items() if us <= enough_us)
    return min(limit, 2 * best) if best == max(row_us) else best


def neighbours(rows: int, limit: int) -> list[int]:
    """The sizes next to `rows` among those that `best_rows` compares, the larger one first."""
    larger = [size for size in _sizes(limit) if size > rows]
    smaller = [size for size in _sizes(limit) if size < rows]
    return larger[:1] + smaller[-1:]


def _sizes(limit: int) -> list[int]:
    return [size for size in (1 << bit for bit in range(limit.bit_length())) if size < limit] + [limit]


def rows_to_take(waiting: int, max_batch: int, preferred: Sequence[int] = ()) -> int:
    """How many of the waiting rows to batch: the largest preferred size that they fill, else as many as allowed."""
    most = min(waiting, max_batch)
    return max((size for size in preferred if size <= most), default=most)


def rows_for_one(waiting: int, most: int, workers: int, predict: Predict) -> int:
    """How many of the waiting rows one idle worker takes when other workers are idle, too: an even share, or all.

    On a CPU, several runs with one thread each finish sooner. On a GPU, one run of all rows is hardly more work than each of
    the smaller ones.

    Args:
        most: what it takes if no other worker is idle.
        workers: the number of idle workers, this one included.
    """
    even = -(-waiting // workers)
    together_us, share_us = predict(most), predict(even)
    if even >= most or together_us is None or share_us is None:
        return most
    return even if share_us * most <= together_us * even * (1 + MAX_EXTRA_WORK) else most


def chunks(rows: int, max_batch: int, predict: Predict) -> list[int]:
    """The rows of each run that a request is split into; a single number if splitting isn't worth it."""
    if rows <= max_batch or (predict(rows) or 0.0) < MIN_SPLIT_US:
        return [rows]
    full, rest = divmod(rows, max_batch)
    return [max_batch] * full + [rest] * (rest > 0)


def runs_us(rows: int, max_batch: int, predict: Predict) -> float:
    """Microseconds that so many rows take in runs of at most `max_batch`; 0 if nothing was measured."""
    full, rest = divmod(rows, max_batch)
    return full * (predict(max_batch) or 0.0) + ((predict(rest) or 0.0) if rest else 0.0)


def select(queue: Sequence[E], now_s: float) -> tuple[Selection[E], list[E]]:
    """The next batch of a short queue, and what stays queued: the oldest live request, and later ones that fit its batch.

    Cancelled and expired requests are dropped here, before they cost anything.
    """
    selection: Selection[E] = Selection()
    rest: list[E] = []
    rows = 0
    for entry in queue:
        if is_stale(entry, now_s):
            selection.drop(entry)
        elif not selection.batch:
            selection.batch.append(entry)
            first, rows = entry, entry.rows
        elif (
            entry.tenant is first.tenant
            and entry.batch_key == first.batch_key
            and rows + entry.rows <= entry.tenant.effective_max_batch
        ):
            selection.batch.append(entry)
            rows += entry.rows
        else:
            rest.append(entry)
    return selection, rest


def collate(requests: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins the inputs of several requests along axis 0; the inputs of a single request are passed on as they are.

    Arrays that are views of a message may lie at any address. The result is aligned, which runtimes rely on.
    """
    first = requests[0]
    if len(requests) == 1:
        return {name: array if array.flags.aligned else array.copy() for name, array in first.items()}
    return {name: np.concatenate([inputs[name] for inputs in requests]) for name in first}


def scatter(outputs: Sequence[np.ndarray], rows: Sequence[int]) -> list[list[np.ndarray]]:
    """Splits outputs of shape (sum(rows), ...) into one list of arrays (rows[i], ...) per request: views, no copies.

    Raises:
        ValueError: an output doesn't have as many rows as the inputs had, so it can't be assigned to requests.
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


def split(inputs: dict[str, np.ndarray], rows: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Splits inputs of shape (sum(rows), ...) into those of consecutive runs: views, no copies."""
    separate, start = [], 0
    for n in rows:
        separate.append({name: array[start : start + n] for name, array in inputs.items()})
        start += n
    return separate


def concatenate(outputs: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The outputs of consecutive runs as those of one run."""
    return [np.concatenate(arrays) for arrays in zip(*outputs, strict=True)]
