"""The bytes of a tensor of texts: each element follows its length, a little-endian uint32.

Source: Triton's "Binary Tensor Data" extension (extension_binary_data.md).
"""

import struct

#: Bytes of the length before each element.
LENGTH_BYTES = 4


def elements_of(data: bytes) -> list[bytes]:
    """The elements in the bytes of a tensor.

    Raises:
        ValueError: the bytes end within an element; the text says where, in Triton's words.
    """
    elements, at = [], 0
    while at < len(data):
        if at + LENGTH_BYTES > len(data):
            raise ValueError("incomplete string length indicator", "")
        (length,) = struct.unpack_from("<I", data, at)
        at += LENGTH_BYTES
        if at + length > len(data):
            raise ValueError("incomplete string data", f"an element of {length} bytes with {len(data) - at} left")
        elements.append(data[at : at + length])
        at += length
    return elements


def bytes_of(elements: list[bytes]) -> bytes:
    """The bytes of a tensor with these elements."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
