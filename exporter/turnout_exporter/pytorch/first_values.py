"""The weights and buffers that a model was made with. The published model has these, whatever `forward` does to its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from turnout_exporter.pytorch.build import bytes_of


@dataclass(frozen=True)
class _Kept:
    """A tensor of the model, and a copy of what it was.

    Attributes:
        what: `weight` or `buffer`, for messages.
    """

    tensor: Tensor
    first: Tensor
    what: str


class FirstValues:
    """Keeps a copy of every weight until the first run has left it alone, and of the buffers for good.

    Any run may change a buffer, and torch's count of a tensor's changes misses those of BatchNorm: they are always copied back.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._kept = {name: _Kept(tensor, tensor.detach().clone(), "weight") for name, tensor in model.named_parameters()}
        self._kept |= {name: _Kept(tensor, tensor.detach().clone(), "buffer") for name, tensor in model.named_buffers()}
        self._has_run = False

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Lets the model run, and gives it its first values back."""
        try:
            yield
            if not self._has_run:
                self._has_run = True
                changed = self._changed()
                self._kept = {name: kept for name, kept in self._kept.items() if kept.what == "buffer" or name in changed}
        finally:
            for name, kept in self._kept.items():
                self._restore(name, kept)

    def changes(self) -> list[str]:
        """What differs from its first value now, such as `the buffer 'calls'`."""
        return [f"the {self._kept[name].what} {name!r}" for name in self._changed()]

    def _changed(self) -> list[str]:
        return [
            name
            for name, kept in self._kept.items()
            if not _fits(self._now(name), kept.first) or not torch.equal(bytes_of(self._now(name)), bytes_of(kept.first))
        ]

    def _restore(self, name: str, kept: _Kept) -> None:
        if not _fits(self._now(name), kept.first):
            return  # a cache that grew: the model also remembers elsewhere how far
        with torch.no_grad():
            kept.tensor.copy_(kept.first)
        if self._now(name) is not kept.tensor:
            owner, _, attribute = name.rpartition(".")
            setattr(self.model.get_submodule(owner), attribute, kept.tensor)

    def _now(self, name: str) -> Tensor:
        owner, _, attribute = name.rpartition(".")
        tensor: Tensor = getattr(self.model.get_submodule(owner), attribute)
        return tensor


def _fits(now: Tensor, first: Tensor) -> bool:
    return now.shape == first.shape and now.dtype == first.dtype
