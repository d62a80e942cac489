"""Tensors between the server and a device's process, through memory that both have mapped.

The memory is anonymous (memfd): it has no name that could leak or be opened by others, isn't limited by the size of /dev/shm,
and is gone once the last of the two closes it.
"""

import mmap
import os
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

K = TypeVar("K", bound=Hashable)

#: Where an array is: (offset, dtype's name, shape); an array of text travels as it is, beside the memory.
Place = tuple[int, str, tuple[int, ...]] | np.ndarray

_ALIGNMENT = 64
_PAGE = mmap.PAGESIZE


class Memory:
    """Arrays laid one behind another into a memfd, which grows as they need it. For one thread at a time on each side."""

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("turnout-lane") if descriptor is None else descriptor
        self._map: mmap.mmap | None = None

    def put(self, arrays: Mapping[K, np.ndarray]) -> dict[K, Place]:
        """Copies arrays in, from the start; returns where each is, for the other side's `get`."""
        places: dict[K, Place] = {}
        end = 0
        for key, array in arrays.items():
            if array.dtype.kind == "O":
                places[key] = array
            else:
                places[key] = (end, array.dtype.name, array.shape)
                end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        view = self._mapped(end)
        for key, array in arrays.items():
            place = places[key]
            if isinstance(place, tuple):
                target: np.ndarray = np.ndarray(array.shape, array.dtype, view, place[0])
                target[...] = array
        return places

    def get(self, places: Mapping[K, Place]) -> dict[K, np.ndarray]:
        """Views of the arrays that the other side has put in; the next `put` of either side overwrites them."""
        needed = [p[0] + np.dtype(p[1]).itemsize * int(np.prod(p[2])) for p in places.values() if isinstance(p, tuple)]
        view = self._mapped(max(needed, default=0))
        return {
            key: np.ndarray(place[2], np.dtype(place[1]), view, place[0]) if isinstance(place, tuple) else place
            for key, place in places.items()
        }

    def close(self) -> None:
        """Gives the memory back, once nobody holds a view of it any more."""
        self._map = None
        os.close(self.descriptor)

    def _mapped(self, size: int) -> mmap.mmap:
        if self._map is None or len(self._map) < size:
            rounded = max(_PAGE, -(-size // _PAGE) * _PAGE)
            if os.fstat(self.descriptor).st_size < rounded:
                os.posix_fallocate(self.descriptor, 0, rounded)  # an error here and now, not a signal at the first write
            self._map = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
        return self._map
