"""Tests that parameters are read with their types."""

import pytest
from turnout_proto import inference_pb2 as pb
from turnout_server.core.errors import InvalidRequest
from turnout_server.wire import parameters

Kinds = dict[str, str | int | bool | float]


def given(**kinds: str | int | bool | float) -> parameters.Parameters:
    request = pb.ModelInferRequest()
    for kind, value in kinds.items():
        setattr(request.parameters["key"], kind, value)
    return request.parameters


def test_an_absent_parameter_is_no_error() -> None:
    assert parameters.text({}, "key") == ""
    assert parameters.whole({}, "key") is None


def test_strings_and_integers_are_read() -> None:
    assert parameters.text(given(string_param="cpu"), "key") == "cpu"
    assert parameters.whole(given(int64_param=0), "key") == 0
    assert parameters.whole(given(uint64_param=2**64 - 1), "key") == 2**64 - 1


@pytest.mark.parametrize("kinds", [{"int64_param": 1}, {"bool_param": True}, {"double_param": 1.0}, {"uint64_param": 1}])
def test_a_value_that_is_no_string_is_refused_with_tritons_text(kinds: Kinds) -> None:
    with pytest.raises(InvalidRequest, match=r"^invalid value type for 'key' parameter, expected string_param\.$"):
        parameters.text(given(**kinds), "key")


@pytest.mark.parametrize("kinds", [{"string_param": "1"}, {"bool_param": True}, {"double_param": 1.0}])
def test_a_value_that_is_no_integer_is_refused_with_tritons_text(kinds: Kinds) -> None:
    with pytest.raises(InvalidRequest, match=r"^invalid value type for 'key' parameter, expected int64_param\.$"):
        parameters.whole(given(**kinds), "key")


def test_a_parameter_without_a_value_is_refused() -> None:
    request = pb.ModelInferRequest()
    request.parameters["key"].SetInParent()
    for read in (parameters.text, parameters.whole):
        with pytest.raises(InvalidRequest, match="invalid value type"):
            read(request.parameters, "key")


def test_empty_strings_and_negative_integers_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="'key' parameter is empty"):
        parameters.text(given(string_param=""), "key")
    with pytest.raises(InvalidRequest, match="must not be negative, got -1"):
        parameters.whole(given(int64_param=-1), "key")


def test_the_triton_prefix_is_reserved_except_for_one_key() -> None:
    request = pb.ModelInferRequest()
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    request.parameters["tritonic"].bool_param = True
    parameters.check_reserved(request.parameters)
    request.parameters["triton_other"].bool_param = True
    with pytest.raises(InvalidRequest, match=r"are allowed: triton_enable_empty_final_response; got 'triton_other'"):
        parameters.check_reserved(request.parameters)


@pytest.mark.parametrize("value", ["", "latency", "cost", "energy"])
def test_a_known_or_empty_objective_is_accepted(value: str) -> None:
    assert parameters.check_objective(value) == value


def test_an_unknown_objective_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"^unknown objective 'x{64}'; there are: latency, cost, energy$"):
        parameters.check_objective("x" * 1000)
