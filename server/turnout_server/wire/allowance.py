"""How much memory a message may take once it is decoded.

A few wire bytes can become many: an INT64 that is sent as one byte takes eight, and a text of two characters takes about 130
bytes as objects of Python and ONNX Runtime. So the tensors of a message may take FACTOR times its bytes. With the message
itself, which exists twice while gRPC hands it over, a large one takes at most about four times its bytes.
"""

from turnout_server.core.errors import InvalidRequest

#: Decoded bytes for each byte of the message; raw numbers are views of it and take none.
FACTOR = 2
#: What any message may take in addition: enough for the small tensors of real requests.
FREE_BYTES = 8 << 20


class Allowance:
    """What is left for the tensors of one message.

    Args:
        wire_bytes: the size of the message.
    """

    def __init__(self, wire_bytes: int) -> None:
        self._left_bytes = FACTOR * wire_bytes + FREE_BYTES
        self._wire_bytes = wire_bytes

    def widen(self, wire_bytes: int) -> None:
        """Adds what is allowed for data that isn't in the message, but in a shared-memory region."""
        self._left_bytes += FACTOR * wire_bytes
        self._wire_bytes += wire_bytes

    def take(self, size: int, name: str) -> None:
        """Takes `size` bytes for the input `name`.

        Raises:
            InvalidRequest: there isn't so much left.
        """
        self._left_bytes -= size
        if self._left_bytes < 0:
            raise InvalidRequest(
                f"input '{name}' takes too much memory once decoded: texts and typed contents may take {FACTOR} times "
                f"the message's {self._wire_bytes} bytes and {FREE_BYTES} bytes more; send numbers in raw_input_contents, and "
                f"many short texts in several requests"
            )
