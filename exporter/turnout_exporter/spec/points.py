"""The points at which a model is verified: combinations of sizes of its free dimensions.

If an exporter fixes a size that only the example had, that can't be seen at this size. So no two dimensions have the same size,
each one is also tried alone at 1 and at a larger size, and the ends of every stated range are tried.
"""

import re
import zlib
from dataclasses import dataclass
from itertools import count
from typing import Self

import numpy as np

from turnout_exporter.errors import SpecError

BATCH = "batch"  #: the batch axis, if it is axis 0 of every input
DEFAULT_MAX_BATCH_SIZE = 32
FIXED = "fixed"  #: the label of the only point of a model without free dimensions


@dataclass(frozen=True)
class Point:
    """One size for each free dimension.

    Attributes:
        draw: distinguishes points of the same sizes, which differ in their values only.
    """

    sizes: dict[str, int]
    draw: int = 1

    @property
    def label(self) -> str:
        """The name in `golden.npz` and in messages, such as `batch=2,seq=3`."""
        sizes = ",".join(f"{dim}={size}" for dim, size in self.sizes.items()) or FIXED
        return sizes if self.draw == 1 else f"{sizes}#{self.draw}"

    @classmethod
    def parse(cls, label: str) -> Self:
        """The point with this label."""
        sizes, _, draw = label.partition("#")
        pairs = (pair.split("=") for pair in sizes.split(",") if sizes != FIXED)
        return cls({dim: int(size) for dim, size in pairs}, int(draw or 1))

    def random(self) -> np.random.Generator:
        """A generator that gives the same values whenever this point is tried."""
        return np.random.default_rng(zlib.crc32(self.label.encode()))


@dataclass(frozen=True)
class Limits:
    """The sizes that a dimension may have, both ends included; `high` None for no upper limit."""

    low: int = 1
    high: int | None = None

    def clamp(self, size: int) -> int:
        """The allowed size nearest to this one."""
        return max(self.low, size if self.high is None else min(size, self.high))


def parse_range(text: str) -> tuple[str, Limits]:
    """Parses one `--range`, such as `seq=1..512`.

    Raises:
        SpecError: it has another form, or contains no size.
    """
    found = re.fullmatch(r"(?P<dim>\w+)=(?P<low>\d+)\.\.(?P<high>\d+)", text.strip())
    if not found:
        raise SpecError(f"range {text!r} can't be read: write dim=low..high, both included, for example seq=1..512")
    limits = Limits(int(found["low"]), int(found["high"]))
    if limits.high is None or not 1 <= limits.low <= limits.high:
        raise SpecError(f"range {text!r} holds no size: sizes start at 1 and low must not exceed high")
    return found["dim"], limits


def limit_all(dims: list[str], ranges: dict[str, Limits], max_batch_size: int | None) -> tuple[dict[str, Limits], int]:
    """The limits of each dimension that has any, and the largest batch size, which is also tried.

    Raises:
        SpecError: a range names an unknown dimension, or excludes a possible batch size.
    """
    for dim in ranges.keys() - set(dims):
        raise SpecError(f"no input has a dimension {dim!r} for --range; there are {', '.join(dims) or 'none'}")
    given = ranges.get(BATCH)
    rows = max_batch_size
    if rows is None:
        rows = given.high if given and given.high else DEFAULT_MAX_BATCH_SIZE
    if not rows or BATCH not in dims:
        return ranges, rows
    if given and (given.low > 1 or given.clamp(rows) < rows):
        raise SpecError(
            f"a batch of 1 to {rows} rows isn't within --range batch={given.low}..{given.high}; "
            f"start it at 1 and give a --max-batch-size within it, or 0 for no batching"
        )
    return ranges | {BATCH: given or Limits(1, max(2, rows))}, rows  # a single size would verify nothing


def plan(dims: list[str], limits: dict[str, Limits]) -> list[Point]:
    """The points to try. The first is the base point, at which the model is exported."""
    if not dims:
        return [Point({}), Point({}, draw=2)]
    allowed = {dim: limits.get(dim, Limits()) for dim in dims}
    base = _base(allowed)
    tries = [base]
    for dim, limit in allowed.items():
        larger = limit.clamp(3 * base[dim] + 1)
        tries += [base | {dim: size} for size in (limit.low, larger, limit.high) if size is not None]
    tries.append({dim: limit.low for dim, limit in allowed.items()})
    return [Point(sizes) for index, sizes in enumerate(tries) if sizes not in tries[:index]]


def _base(allowed: dict[str, Limits]) -> dict[str, int]:
    """The smallest sizes from 2 up that are all different, as far as the limits allow."""
    base: dict[str, int] = {}
    for dim, limit in allowed.items():
        free = next(size for size in count(limit.clamp(2)) if size not in base.values())
        base[dim] = limit.clamp(free)
    return base
