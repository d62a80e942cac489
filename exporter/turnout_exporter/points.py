"""The sizes at which a model is proven: which points of the space of its free dimensions are tried.

An exporter that bakes an example's size in goes unnoticed at that size, so no two dimensions share a size, each one is tried
alone at 1 and larger, and wherever a range was promised its ends are tried.
"""

import re
import zlib
from dataclasses import dataclass
from itertools import count
from typing import Self

import numpy as np

from turnout_exporter.errors import SpecError

BATCH = "batch"  #: the dimension that rows are joined along, when it is axis 0 of every input
DEFAULT_MAX_BATCH_SIZE = 32
FIXED = "fixed"  #: the label of the only point of a model without free dimensions


@dataclass(frozen=True)
class Point:
    """One size for each free dimension.

    Attributes:
        draw: tells apart points of the same sizes, which differ in their values only.
    """

    sizes: dict[str, int]
    draw: int = 1

    @property
    def label(self) -> str:
        """Its name in `golden.npz` and in messages: `batch=2,seq=3`."""
        sizes = ",".join(f"{dim}={size}" for dim, size in self.sizes.items()) or FIXED
        return sizes if self.draw == 1 else f"{sizes}#{self.draw}"

    @classmethod
    def parse(cls, label: str) -> Self:
        """The point of a label."""
        sizes, _, draw = label.partition("#")
        pairs = (pair.split("=") for pair in sizes.split(",") if sizes != FIXED)
        return cls({dim: int(size) for dim, size in pairs}, int(draw or 1))

    def random(self) -> np.random.Generator:
        """A source of values that is the same whenever this point is tried."""
        return np.random.default_rng(zlib.crc32(self.label.encode()))


@dataclass(frozen=True)
class Limits:
    """The sizes that a dimension may have, both ends included; no `high`: no end."""

    low: int = 1
    high: int | None = None

    def clamp(self, size: int) -> int:
        """The allowed size nearest to this one."""
        return max(self.low, size if self.high is None else min(size, self.high))


def parse_range(text: str) -> tuple[str, Limits]:
    """Read one `--range`, as in `seq=1..512`.

    Raises:
        SpecError: it has another form, or no size lies in it.
    """
    found = re.fullmatch(r"(?P<dim>\w+)=(?P<low>\d+)\.\.(?P<high>\d+)", text.strip())
    if not found:
        raise SpecError(f"range {text!r} can't be read: write dim=low..high, both included, for example seq=1..512")
    limits = Limits(int(found["low"]), int(found["high"]))
    if limits.high is None or not 1 <= limits.low <= limits.high:
        raise SpecError(f"range {text!r} holds no size: sizes start at 1 and low must not exceed high")
    return found["dim"], limits


def limit_all(dims: list[str], ranges: dict[str, Limits], max_batch_size: int | None) -> tuple[dict[str, Limits], int]:
    """The limits of each dimension that has any, and the most rows that may be joined: so many are also tried.

    Raises:
        SpecError: a range is that of no dimension, or it leaves out a number of rows that may be joined.
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
    return ranges | {BATCH: given or Limits(1, max(2, rows))}, rows  # with one size only nothing would be proven


def plan(dims: list[str], limits: dict[str, Limits]) -> list[Point]:
    """The points to try, the base point first: it is the one that the model is exported at."""
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
    """The smallest sizes from 2 up that are all different, as far as the limits let them be."""
    base: dict[str, int] = {}
    for dim, limit in allowed.items():
        free = next(size for size in count(limit.clamp(2)) if size not in base.values())
        base[dim] = limit.clamp(free)
    return base
