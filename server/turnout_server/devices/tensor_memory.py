"""Tensors between the server and a device's process, in memory that both have mapped.

The memory is anonymous (memfd): it has no name that could leak or be opened by others, isn't limited by the size of /dev/shm,
and is freed once the last of the two closes it.
"""

import math
import mmap
import os
import pickle
from collections.abc import Hashable, Mapping
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from turnout_server.core.errors import Overloaded
from turnout_server.devices.memory_layouts import Placed, aligned

K = TypeVar("K", bound=Hashable)

_PAGE = mmap.PAGESIZE


class TensorRef(NamedTuple):
    """Where a tensor lies. Text lies there as a pickled list, so that messages about tensors stay small."""

    offset: int
    byte_size: int
    dtype: str
    shape: tuple[int, ...]


class PageLocker(Protocol):
    """What page-locks memory for a GPU."""

    def lock_pages(self, address: int, size: int) -> bool: ...
    def unlock_pages(self, address: int) -> None: ...


class TensorMemory:
    """A memfd as large as the largest run so far. Used by one thread at a time on each side.

    Args:
        descriptor: the memfd; None makes one.
        locker: page-locks the memory for a GPU; None leaves it pageable.

    Attributes:
        mappings: how often it was mapped. An address from an earlier mapping is invalid.
    """

    def __init__(self, descriptor: int | None = None, locker: PageLocker | None = None) -> None:
        self.descriptor = os.memfd_create("turnout-slot") if descriptor is None else descriptor
        self.mappings = 0
        self._locker = locker
        self._map: mmap.mmap | None = None
        self._locked: int | None = None

    def reserve(self, size: int) -> None:
        """Makes sure that so many bytes are mapped.

        Raises:
            Overloaded: there isn't enough memory.
        """
        if self._map is not None and len(self._map) >= size:
            return
        rounded = max(_PAGE, aligned(size, _PAGE))
        try:
            if os.fstat(self.descriptor).st_size < rounded:
                os.posix_fallocate(self.descriptor, 0, rounded)  # an error now, not a signal at the first write
            self._unlock()
            self._map = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
        except OSError as error:
            raise Overloaded(f"not enough memory for {size} bytes of tensors: {error.strerror}") from None
        self.mappings += 1
        if self._locker is not None and self._locker.lock_pages(self.address, len(self._map)):
            self._locked = self.address

    @property
    def address(self) -> int:
        """Where it is mapped in this process."""
        assert self._map is not None
        return int(np.frombuffer(self._map, np.uint8).ctypes.data)

    def view(self, placed: Placed) -> np.ndarray:
        """An array over a tensor of a layout; `reserve` the layout's size first."""
        assert self._map is not None
        return np.ndarray(placed.shape, np.dtype(placed.dtype), self._map, placed.offset)

    def put(self, arrays: Mapping[K, np.ndarray], start: int = 0) -> dict[K, TensorRef]:
        """Copies arrays in, one behind another; returns references for the other side's `get`.

        Args:
            start: where the first one goes, in bytes.

        Raises:
            Overloaded: there isn't enough memory.
        """
        flat = {key: _pickled(array) if array.dtype.kind == "O" else array for key, array in arrays.items()}
        references: dict[K, TensorRef] = {}
        end = aligned(start)
        for key, array in arrays.items():
            references[key] = TensorRef(end, flat[key].nbytes, array.dtype.name, array.shape)
            end += aligned(flat[key].nbytes)
        self.reserve(max(end, 1))
        for key, array in flat.items():
            target: np.ndarray = np.ndarray(array.shape, np.dtype(array.dtype.name), self._map, references[key].offset)
            target[...] = array
        return references

    def get(self, references: Mapping[K, TensorRef]) -> dict[K, np.ndarray]:
        """The arrays that the other side has put in: views, which the next run overwrites.

        Raises:
            Overloaded: there isn't enough memory.
        """
        self.reserve(max((offset + size for offset, size, _, _ in references.values()), default=1))
        assert self._map is not None
        return {
            key: _unpickled(self._map[offset : offset + size], shape)
            if dtype == "object"
            else np.ndarray(shape, np.dtype(dtype), self._map, offset)
            for key, (offset, size, dtype, shape) in references.items()
        }

    def close(self) -> None:
        """Gives the memory back, once nobody holds a view of it any more."""
        self._unlock()
        self._map = None
        os.close(self.descriptor)

    def _unlock(self) -> None:
        if self._locked is not None and self._locker is not None:
            self._locker.unlock_pages(self._locked)
            self._locked = None


def _pickled(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(pickle.dumps(array.ravel().tolist(), pickle.HIGHEST_PROTOCOL), np.uint8)


def _unpickled(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(math.prod(shape), np.object_)
    array[:] = pickle.loads(data)
    return array.reshape(shape)
