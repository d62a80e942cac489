"""Tests how much memory the tensors of a message may take."""

import pytest
from turnout_server.core.errors import InvalidRequest
from turnout_server.wire.allowance import FACTOR, FREE_BYTES, Allowance


def test_a_message_may_take_its_share_and_no_byte_more() -> None:
    allowance = Allowance(1000)
    allowance.take(FREE_BYTES, "a")
    allowance.take(FACTOR * 1000, "b")
    with pytest.raises(InvalidRequest, match=r"input 'c' takes too much memory.*1000 bytes"):
        allowance.take(1, "c")


def test_data_outside_the_message_counts_as_part_of_it() -> None:
    allowance = Allowance(0)
    allowance.widen(1000)
    allowance.take(FREE_BYTES + FACTOR * 1000, "a")
