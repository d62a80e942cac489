"""Finds the sizes that a model takes, by trying them: a base at which it runs, then each free dimension's step and ends.

A claim reaches only as far as it was tried. So a size grows until the model itself fails, or until trying becomes too
expensive, and what was reached is published as the range.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from turnout_exporter.spec.points import BATCH, Limits, Sizes, base_sizes

#: Bases to try after the smallest sizes: networks with strides need a multiple of up to 32, audio a few thousand samples.
LADDER = (8, 16, 32, 64, 128, 224, 256, 384, 512, 1024, 4096, 16384)
STEPS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Trial:
    """What came of running a model at some sizes.

    Attributes:
        cpu_s: the processor time that it took, which other processes on a busy machine don't change much.
        nbytes: the bytes of its inputs and outputs.
        memory_bytes: the growth of the process's peak memory since the first run.
        error: why it failed; empty if it ran.
        is_exhausted: whether it failed for want of memory, which says nothing about the model.
    """

    cpu_s: float
    nbytes: int = 0
    memory_bytes: int = 0
    error: str = ""
    is_exhausted: bool = False


Try = Callable[[Sizes], Trial]


@dataclass
class Budget:
    """How much trying may cost.

    Attributes:
        run_cpu_s: the longest single run, in processor time.
        dim_cpu_s: all runs for one dimension together.
        nbytes: inputs and outputs of one run, which are kept as the reference.
        memory_bytes: what one run may need besides.
        size: the largest size of a dimension for which nothing else says where to stop,
        growth: or this many times the base, for sounds, which begin at hundreds.
    """

    run_cpu_s: float = 8.0
    dim_cpu_s: float = 40.0
    nbytes: int = 128 * 2**20
    memory_bytes: int = 4 * 2**30
    size: int = 4096
    growth: int = 64

    def allows_doubling(self, trial: Trial) -> bool:
        """Whether a run of twice the size is affordable; attention takes four times the time and memory then."""
        return (
            4 * trial.cpu_s <= self.run_cpu_s
            and 2 * trial.nbytes <= self.nbytes
            and 4 * trial.memory_bytes <= self.memory_bytes
        )


@dataclass
class Search:
    """Tries sizes of one model.

    Attributes:
        attempt: runs the model.
        caps: the largest sizes to try, where something says them, such as a configuration's `max_position_embeddings`.
    """

    attempt: Try
    caps: dict[str, int] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)

    def base(self, dims: list[str], given: dict[str, Limits]) -> tuple[Sizes, str]:
        """The first sizes at which the model runs, and the error of the smallest ones if it runs at none."""
        first_error, cpu_s = "", 0.0
        for sizes in _bases(dims, given, self.caps):
            trial = self.attempt(sizes)
            if not trial.error:
                return sizes, ""
            first_error = first_error or trial.error
            cpu_s += trial.cpu_s
            if cpu_s > self.budget.dim_cpu_s or trial.is_exhausted:
                break
        return {}, first_error

    def limits(self, base: Sizes, given: dict[str, Limits]) -> tuple[Sizes, dict[str, Limits]]:
        """The limits of every dimension: the given ones, and for the others what the model was seen to take.

        Returns:
            The base within the limits, and the limits.
        """
        limits = dict(given)
        for dim in base:
            if dim not in given:
                base, limits[dim] = self._limits_of(dim, base)
        return base, {dim: limits[dim] for dim in base}

    def _limits_of(self, dim: str, base: Sizes) -> tuple[Sizes, Limits]:
        step = next((step for step in STEPS if self._run(base, dim, base[dim] + step, base[dim] + 2 * step)), 0)
        if not step:
            return base, Limits(base[dim], base[dim])
        base = self._aligned(dim, base, step)
        return base, Limits(self._lowest(dim, base, step), self._highest(dim, base, step), step)

    def _aligned(self, dim: str, base: Sizes, step: int) -> Sizes:
        """The base with a multiple of the step, if the model takes those as well: images of 224 are usual, not of 223."""
        if base[dim] % step == 0:
            return base
        others = {size for other, size in base.items() if other != dim}
        size = next(size for size in count(base[dim] - base[dim] % step + step, step) if size not in others)
        return base | {dim: size} if self._run(base, dim, size, size + step, size + 2 * step) else base

    def _run(self, base: Sizes, dim: str, *sizes: int) -> bool:
        return not any(self.attempt(base | {dim: size}).error for size in sizes)

    def _highest(self, dim: str, base: Sizes, step: int) -> int:
        """Doubles the size until the model fails, then looks for the exact end; or until the budget ends."""
        cap = self.caps.get(dim, max(self.budget.size, self.budget.growth * base[dim]))
        works, cpu_s = base[dim] + 2 * step, 0.0
        while works + step <= cap:
            size = base[dim] + (min(2 * works, cap) - base[dim]) // step * step
            trial = self.attempt(base | {dim: size})
            if trial.is_exhausted:
                return works
            if trial.error:
                return self._bisect(dim, base, works, size, step)
            works, cpu_s = size, cpu_s + trial.cpu_s
            if cpu_s > self.budget.dim_cpu_s or not self.budget.allows_doubling(trial):
                return works
        return works

    def _lowest(self, dim: str, base: Sizes, step: int) -> int:
        smallest = base[dim] - (base[dim] - 1) // step * step
        if smallest == base[dim] or not self.attempt(base | {dim: smallest}).error:
            return smallest
        return self._bisect(dim, base, base[dim], smallest, step)

    def _bisect(self, dim: str, base: Sizes, works: int, fails: int, step: int) -> int:
        """The working size next to the first one that fails, between the two."""
        while abs(works - fails) > step:
            middle = works + int((fails - works) / 2 / step) * step
            if middle == works:
                middle += step if fails > works else -step
            trial = self.attempt(base | {dim: middle})
            works, fails = (works, middle) if trial.error else (middle, fails)
        return works


def _bases(dims: list[str], given: dict[str, Limits], caps: dict[str, int]) -> Iterator[Sizes]:
    """Sizes to begin with: small and all different, then larger ones, at first different and then equal."""
    yield base_sizes(dims, given)
    free = [dim for dim in dims if dim not in given and dim != BATCH]
    for size in LADDER if free else ():
        rest = {dim: limits for dim, limits in given.items() if dim not in free}
        fixed = base_sizes([dim for dim in dims if dim not in free], rest)
        different = {dim: size * (index + 1) for index, dim in enumerate(free)}
        for sizes in (different, dict.fromkeys(free, size))[: len(free)]:
            if all(size <= caps.get(dim, size) for dim, size in sizes.items()):
                yield {dim: (fixed | sizes)[dim] for dim in dims}
