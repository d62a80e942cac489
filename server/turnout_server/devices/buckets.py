"""Buckets: the few numbers of rows that runs are padded to where a change of size is expensive. Pure functions.

Some providers prepare a run for its exact shapes: the CUDA provider plans every convolution again when the batch size changes
(150 to 330 ms for ResNet-50, whose run takes 3; docs/results/gpu), others compile. There a run of 5 rows is padded to 8.
"""

from collections.abc import Sequence

#: A change of size that costs less than this, in microseconds, isn't worth padding for.
MIN_CHANGE_US = 1000.0
#: From this size on there is a bucket halfway to the next power of two. Small runs cost much the same padded.
HALFWAY_FROM = 8


def doubling(max_rows: int) -> tuple[int, ...]:
    """1, 2, 4, ... and `max_rows`: enough sizes to know what every size takes."""
    powers = (1 << bit for bit in range(max_rows.bit_length()))
    return (*(size for size in powers if size < max_rows), max_rows)


def bucket_sizes(max_rows: int) -> tuple[int, ...]:
    """1, 2, 4, 8, 12, 16, 24, 32, 48, ... and `max_rows`: from 8 rows on, at most a third of a run is padding."""
    powers = doubling(max_rows)
    halfway = (3 * size // 2 for size in powers if size >= HALFWAY_FROM)
    return tuple(sorted({*powers, *(size for size in halfway if size < max_rows)}))


def bucket_for(rows: int, buckets: Sequence[int]) -> int:
    """The smallest bucket with room for so many rows; 0 if there is none, so that the run isn't padded.

    Args:
        buckets: ascending.
    """
    return next((size for size in buckets if rows <= size), 0)


def is_size_sensitive(steady_us: float, alternating_us: float) -> bool:
    """Whether changing the size costs more than padding to twice the rows would.

    Args:
        steady_us: a run, after another of the same size.
        alternating_us: a run, after another of a different size.
    """
    return alternating_us > 2 * steady_us and alternating_us - steady_us > MIN_CHANGE_US
