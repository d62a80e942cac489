"""Tensors between the server and a device's process, through memory that both have mapped.

The memory is anonymous (memfd): it has no name that could leak or be opened by others, isn't limited by the size of /dev/shm,
and is gone once the last of the two closes it.
"""

import math
import mmap
import os
import pickle
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

from turnout_server.core.errors import Overloaded

K = TypeVar("K", bound=Hashable)

#: Where an array is: offset, bytes, dtype's name, shape. Text lies there as a pickled list, so that messages about tensors
#: stay small, whatever is in them: a large one would wait for as long as its receiver is stopped.
TensorRef = tuple[int, int, str, tuple[int, ...]]

_ALIGNMENT = 64
_PAGE = mmap.PAGESIZE


class TensorMemory:
    """Arrays laid one behind another into a memfd, as large as the largest so far. For one thread at a time on each side."""

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("turnout-slot") if descriptor is None else descriptor
        self._map: mmap.mmap | None = None

    def put(self, arrays: Mapping[K, np.ndarray]) -> dict[K, TensorRef]:
        """Copies arrays in, from the start; returns where each is, for the other side's `get`.

        Raises:
            Overloaded: there isn't enough memory.
        """
        flat = {key: _pickled(array) if array.dtype.kind == "O" else array for key, array in arrays.items()}
        references: dict[K, TensorRef] = {}
        end = 0
        for key, array in arrays.items():
            references[key] = (end, flat[key].nbytes, array.dtype.name, array.shape)
            end += _aligned(flat[key].nbytes, _ALIGNMENT)
        view = self._mapped(end)
        for key, array in flat.items():
            target: np.ndarray = np.ndarray(array.shape, np.dtype(array.dtype.name), view, references[key][0])
            target[...] = array
        return references

    def get(self, references: Mapping[K, TensorRef]) -> dict[K, np.ndarray]:
        """The arrays that the other side has put in: views, which the next `put` of either side overwrites.

        Raises:
            Overloaded: there isn't enough memory.
        """
        view = self._mapped(max((offset + size for offset, size, _, _ in references.values()), default=0))
        return {
            key: _unpickled(view[offset : offset + size], shape)
            if dtype == "object"
            else np.ndarray(shape, np.dtype(dtype), view, offset)
            for key, (offset, size, dtype, shape) in references.items()
        }

    def close(self) -> None:
        """Gives the memory back, once nobody holds a view of it any more."""
        self._map = None
        os.close(self.descriptor)

    def _mapped(self, size: int) -> mmap.mmap:
        if self._map is None or len(self._map) < size:
            rounded = max(_PAGE, _aligned(size, _PAGE))
            try:
                if os.fstat(self.descriptor).st_size < rounded:
                    os.posix_fallocate(self.descriptor, 0, rounded)  # an error here and now, not a signal at the first write
                self._map = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
            except OSError as error:
                raise Overloaded(f"not enough memory for {size} bytes of tensors: {error.strerror}") from None
        return self._map


def _aligned(size: int, to: int) -> int:
    return -(-size // to) * to


def _pickled(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(pickle.dumps(array.ravel().tolist(), pickle.HIGHEST_PROTOCOL), np.uint8)


def _unpickled(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(math.prod(shape), np.object_)
    array[:] = pickle.loads(data)
    return array.reshape(shape)
