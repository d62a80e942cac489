"""The points at which a model is verified: combinations of sizes of its free dimensions.

If an exporter fixes a size that only the example had, that can't be seen at this size. So no two dimensions have the same size,
each one is also tried alone at 1 and at a larger size, and the ends of every range are tried.
"""

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Self

import numpy as np

from turnout_exporter.errors import SpecError

BATCH = "batch"  #: the batch axis, if it is axis 0 of every input
DEFAULT_MAX_BATCH_SIZE = 32
FIXED = "fixed"  #: the label of the only point of a model without free dimensions

Sizes = dict[str, int]  #: one size for each free dimension


@dataclass(frozen=True)
class Point:
    """One size for each free dimension.

    Attributes:
        draw: distinguishes points of the same sizes, which differ in their values only.
    """

    sizes: Sizes
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

    @property
    def seed(self) -> int:
        """A number that is the same whenever this point is tried, and another one for other points."""
        return zlib.crc32(self.label.encode())

    def random(self) -> np.random.Generator:
        """A generator that gives the same values whenever this point is tried."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True)
class Limits:
    """The sizes that a dimension may have: from `low` to `high`, both included, in steps of `step`."""

    low: int
    high: int
    step: int = 1

    def clamp(self, size: int) -> int:
        """The largest allowed size that isn't above this one, or the smallest one."""
        inside = max(self.low, min(size, self.high))
        return inside - (inside - self.low) % self.step

    def __str__(self) -> str:
        return f"{self.low}..{self.high}" + (f"/{self.step}" if self.step > 1 else "")


def parse_range(text: str) -> tuple[str, Limits]:
    """Parses one `--range`, such as `seq=1..512`, or `height=64..640/32` for the multiples of 32 from 64 on.

    Raises:
        SpecError: it has another form, or contains no size.
    """
    found = re.fullmatch(r"(?P<dim>\w+)=(?P<low>\d+)\.\.(?P<high>\d+)(/(?P<step>\d+))?", text.strip())
    if not found:
        raise SpecError(f"range {text!r} can't be read: write dim=low..high, both included, for example seq=1..512")
    limits = Limits(int(found["low"]), int(found["high"]), int(found["step"] or 1))
    if not 1 <= limits.low <= limits.high or limits.step < 1:
        raise SpecError(f"range {text!r} holds no size: sizes start at 1 and low must not exceed high")
    return found["dim"], Limits(limits.low, limits.clamp(limits.high), limits.step)


def batch_limits(dims: list[str], ranges: dict[str, Limits], max_batch_size: int | None) -> tuple[dict[str, Limits], int]:
    """The ranges with that of the batch axis, if there is one, and the largest batch size, which is verified, too.

    Raises:
        SpecError: a range excludes a possible batch size.
    """
    given = ranges.get(BATCH)
    rows = max_batch_size
    if rows is None:
        rows = given.high if given else DEFAULT_MAX_BATCH_SIZE
    if not rows or BATCH not in dims:
        return ranges, rows
    if given and (given.low > 1 or given.step > 1 or given.high < rows):
        raise SpecError(
            f"a batch of 1 to {rows} rows isn't within --range batch={given}; "
            f"start it at 1 and give a --max-batch-size within it, or 0 for no batching"
        )
    return ranges | {BATCH: given or Limits(1, max(2, rows))}, rows  # a single size would verify nothing


def check_ranges(dims: list[str], ranges: Iterable[str]) -> None:
    """Raises SpecError for the range of a dimension that no input has."""
    for dim in ranges:
        if dim not in dims:
            raise SpecError(f"no input has a dimension {dim!r} for --range; there are {', '.join(dims) or 'none'}")


def base_sizes(dims: list[str], limits: dict[str, Limits]) -> Sizes:
    """The smallest sizes from 2 up that are all different, as far as the limits allow."""
    base: Sizes = {}
    for dim in dims:
        limit = limits.get(dim)
        allowed: Iterable[int] = range(limit.low, limit.high + 1, limit.step) if limit else count(2)
        fitting = (size for size in allowed if size >= 2 and size not in base.values())
        base[dim] = next(fitting, limit.high if limit else 2)
    return base


def plan(base: Sizes, limits: dict[str, Limits]) -> list[Point]:
    """The points to try. The first is the base point, at which the model is exported.

    Args:
        base: sizes at which the model runs.
        limits: the limits of every dimension.
    """
    if not base:
        return [Point({}), Point({}, draw=2)]
    tries = [base]
    for dim, limit in limits.items():
        tries += [base | {dim: size} for size in (limit.low, limit.clamp(3 * base[dim] + 1), limit.high)]
    tries.append({dim: limits[dim].low for dim in base})
    return [Point(sizes) for index, sizes in enumerate(tries) if sizes not in tries[:index]]
