import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.core.device_names import KINDS, entries_of, is_device_name, kind_of, number_of

NAMES = st.one_of(st.sampled_from(["auto", *KINDS]), st.from_regex(rf"({'|'.join(KINDS)}):[a-z0-9._-]{{1,32}}", fullmatch=True))


@given(st.lists(NAMES, min_size=1, max_size=10), st.sampled_from([",", ", ", " ,"]))
def test_the_entries_of_a_list_keep_their_order(names: list[str], comma: str) -> None:
    assert entries_of(comma.join(names)) == names


@pytest.mark.parametrize(("name", "kind"), [("cpu", "cpu"), ("cuda:1", "cuda"), ("cpu:slow", "cpu"), ("auto", "auto")])
def test_the_kind_is_the_part_before_the_colon(name: str, kind: str) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize("value", ["", "tpu", "CPU", "cpu:", "cuda:" + "x" * 33, "cuda:A", "auto:0", "cpu,,cuda", "cpu;cuda"])
def test_an_unknown_device_is_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match="unknown device '"):
        entries_of(value)


@given(st.text(max_size=2000))
def test_any_text_is_either_valid_or_refused_with_a_short_message(text: str) -> None:
    refusal = ""
    try:
        entries = entries_of(text)
    except ValueError as error:
        entries, refusal = [], str(error)
    assert len(refusal) < 200
    assert all(kind_of(entry) in ("auto", *KINDS) for entry in entries)
    assert bool(entries) != bool(refusal)


def test_a_declared_kind_is_known_with_and_without_a_label() -> None:
    assert entries_of("npu:0,npu,cpu", {"npu"}) == ["npu:0", "npu", "cpu"]
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        entries_of("npu,tpu", {"npu"})


@pytest.mark.parametrize(("name", "number"), [("cuda:3", 3), ("cpu", 0), ("cpu:slow", 0), ("openvino:gpu.1", 0)])
def test_a_numeric_label_is_the_devices_number(name: str, number: int) -> None:
    assert number_of(name) == number


@pytest.mark.parametrize(
    ("name", "valid"), [("npu", True), ("my-npu:a.b", True), ("auto", False), ("auto:0", False), ("N:0", False)]
)
def test_only_names_with_the_syntax_of_a_device_can_be_declared(name: str, valid: bool) -> None:
    assert is_device_name(name) is valid
