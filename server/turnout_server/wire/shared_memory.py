"""Reads and writes tensors in clients' POSIX shared memory.

A client may truncate or rewrite its region at any time. So the server never maps it: where access to a mapping would kill the
process with SIGBUS, `pread` and `pwrite` return a short count or an error. They also copy, so a client can't change data after
its validation.
"""

import errno
import os
import stat
import threading

from turnout_server.core.errors import AlreadyExists, InvalidRequest, NotFound, Overloaded
from turnout_server.devices.host import SHARED_MEMORY

#: Where the objects are.
DIRECTORY = SHARED_MEMORY
#: Linux's limit for file names, in bytes.
_MAX_KEY_BYTES = 255


class Region:
    """A named range of a shared-memory object.

    The region stays open while anything refers to it, so requests in flight can use it even after it was unregistered. The
    server never unlinks the object, because it belongs to the client.

    Attributes:
        key: the object's name, as given to shm_open.
        offset, byte_size: the range within the object.

    Raises:
        InvalidRequest: the key or the range is invalid, or the object doesn't exist.
    """

    def __init__(self, name: str, key: str, offset: int, byte_size: int) -> None:
        self.name = name
        self.key = key
        self.offset = offset
        self.byte_size = byte_size
        self._descriptor = _open(name, key)
        size = os.fstat(self._descriptor).st_size
        if byte_size == 0 or offset + byte_size > size:
            raise InvalidRequest(
                f"failed to register shared memory region '{name}': invalid args, "
                f"offset {offset} plus {byte_size} bytes is not within the object's {size}"
            )

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read(self, offset: int, byte_size: int) -> bytes:
        """A copy of `byte_size` bytes at `offset` of the region.

        Raises:
            InvalidRequest: the range exceeds the region, or the object was truncated.
        """
        self.check(offset, byte_size)
        data = os.pread(self._descriptor, byte_size, self.offset + offset)
        if len(data) < byte_size:
            raise InvalidRequest(
                f"shared memory region '{self.name}' gave {len(data)} of {byte_size} bytes: its object was truncated"
            )
        return data

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Writes `data` at `offset` of the region.

        Raises:
            InvalidRequest: the range exceeds the region, or the object can't be written.
            Overloaded: the system is out of shared memory.
        """
        self.check(offset, len(data))
        try:
            written = os.pwrite(self._descriptor, data, self.offset + offset)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise Overloaded(f"there is no memory left behind shared memory region '{self.name}'") from None
            raise InvalidRequest(f"shared memory region '{self.name}' cannot be written: {error.strerror}") from None
        if written < len(data):
            raise Overloaded(f"only {written} of {len(data)} bytes fit into shared memory region '{self.name}'")

    def check(self, offset: int, byte_size: int) -> None:
        """Raises InvalidRequest unless the range is within the region."""
        if offset < 0 or byte_size < 0 or offset + byte_size > self.byte_size:
            raise InvalidRequest(
                f"Invalid offset + byte size for shared memory region: '{self.name}': {offset} + {byte_size} is beyond its "
                f"{self.byte_size} bytes"
            )


class SharedMemory:
    """The regions that clients have registered. Any thread may call any method.

    Args:
        limit: the most regions; each holds a file descriptor.
    """

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Opens a region.

        Raises:
            AlreadyExists: the name is in use.
            Overloaded: there are too many regions.
            InvalidRequest: the name is empty, or see Region.
        """
        if not name:
            raise InvalidRequest("a shared memory region needs a name")
        with self._lock:
            if name in self._regions:
                raise AlreadyExists(f"shared memory region '{name}' already in manager")
            if len(self._regions) >= self._limit:
                raise Overloaded(f"there are {self._limit} shared memory regions already; unregister some")
            self._regions[name] = Region(name, key, offset, byte_size)

    def unregister(self, name: str) -> None:
        """Removes a region, or all if `name` is empty. It is no error if the region doesn't exist."""
        with self._lock:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def find(self, name: str) -> Region:
        """The region of this name.

        Raises:
            NotFound: it doesn't exist.
        """
        region = self._regions.get(name)
        if region is None:
            raise NotFound(f"Unable to find shared memory region: '{name}'")
        return region

    def regions(self, name: str) -> list[Region]:
        """The region of this name, or all if the name is empty.

        Raises:
            NotFound: it doesn't exist.
        """
        with self._lock:
            return [self.find(name)] if name else list(self._regions.values())


def _open(name: str, key: str) -> int:
    """A descriptor of the object `key`, which must be plain memory.

    Errors never contain the key, because other clients' keys are secret.
    """
    wrong = InvalidRequest(f"the key of shared memory region '{name}' is not the name of a POSIX shared-memory object")
    plain = key.removeprefix("/")
    if not plain or "/" in plain or "\0" in plain or plain in (".", "..") or len(os.fsencode(plain)) > _MAX_KEY_BYTES:
        raise wrong
    try:
        descriptor = os.open(DIRECTORY / plain, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidRequest(f"Unable to open shared memory region: '{name}': {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise wrong
    return descriptor
