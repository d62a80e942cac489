from hypothesis import given
from hypothesis import strategies as st
from turnout_server.core.texts import bytes_of, elements_of


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_elements_come_back_from_their_bytes(elements: list[bytes]) -> None:
    assert list(map(bytes, elements_of(bytes_of(elements)))) == elements


@given(st.binary(max_size=40))
def test_bytes_that_end_within_an_element_are_refused_and_all_others_are_read_whole(data: bytes) -> None:
    try:
        elements = list(map(bytes, elements_of(data)))
    except ValueError:
        return
    assert bytes_of(elements) == data
