"""The bytes of a tensor of texts: each element follows its length, a little-endian uint32.

Source: Triton's "Binary Tensor Data" extension (extension_binary_data.md).
"""

import struct
from collections.abc import Iterator

#: Bytes of the length before each element.
LENGTH_BYTES = 4


def elements_of(data: bytes | memoryview) -> Iterator[memoryview]:
    """The elements in the bytes of a tensor, as views, one after the other.

    Raises:
        ValueError: the bytes end within an element; the text says where, in Triton's words.
    """
    view, at = memoryview(data), 0
    while at < len(view):
        if at + LENGTH_BYTES > len(view):
            raise ValueError("incomplete string length indicator", "")
        (length,) = struct.unpack_from("<I", view, at)
        at += LENGTH_BYTES
        if at + length > len(view):
            raise ValueError("incomplete string data", f"an element of {length} bytes with {len(view) - at} left")
        yield view[at : at + length]
        at += length


def bytes_of(elements: list[bytes]) -> bytes:
    """The bytes of a tensor with these elements."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
