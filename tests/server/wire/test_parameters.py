"""Free-form parameters, each with the type it must have."""

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


def test_what_is_not_there_is_no_error() -> None:
    assert parameters.text({}, "key") == ""
    assert parameters.whole({}, "key") is None


def test_text_and_whole_numbers_are_read() -> None:
    assert parameters.text(given(string_param="cpu"), "key") == "cpu"
    assert parameters.whole(given(int64_param=0), "key") == 0
    assert parameters.whole(given(uint64_param=2**64 - 1), "key") == 2**64 - 1


@pytest.mark.parametrize("kinds", [{"int64_param": 1}, {"bool_param": True}, {"double_param": 1.0}, {"uint64_param": 1}])
def test_text_of_another_type_is_refused_with_tritons_words(kinds: Kinds) -> None:
    with pytest.raises(InvalidRequest, match=r"^invalid value type for 'key' parameter, expected string_param\.$"):
        parameters.text(given(**kinds), "key")


@pytest.mark.parametrize("kinds", [{"string_param": "1"}, {"bool_param": True}, {"double_param": 1.0}])
def test_a_number_of_another_type_is_refused_with_tritons_words(kinds: Kinds) -> None:
    with pytest.raises(InvalidRequest, match=r"^invalid value type for 'key' parameter, expected int64_param\.$"):
        parameters.whole(given(**kinds), "key")


def test_a_parameter_without_a_value_is_refused() -> None:
    request = pb.ModelInferRequest()
    request.parameters["key"].SetInParent()
    for read in (parameters.text, parameters.whole):
        with pytest.raises(InvalidRequest, match="invalid value type"):
            read(request.parameters, "key")


def test_empty_text_and_negative_numbers_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="'key' parameter is empty"):
        parameters.text(given(string_param=""), "key")
    with pytest.raises(InvalidRequest, match="must not be negative, got -1"):
        parameters.whole(given(int64_param=-1), "key")


def test_tritons_own_prefix_is_reserved_but_for_one_key() -> None:
    request = pb.ModelInferRequest()
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    request.parameters["tritonic"].bool_param = True
    parameters.check_reserved(request.parameters)
    request.parameters["triton_other"].bool_param = True
    with pytest.raises(InvalidRequest, match=r"are allowed: triton_enable_empty_final_response; got 'triton_other'"):
        parameters.check_reserved(request.parameters)


@pytest.mark.parametrize("value", ["", "latency", "cost", "energy"])
def test_an_objective_is_one_of_those_there_are_or_left_out(value: str) -> None:
    assert parameters.check_objective(value) == value


def test_another_objective_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match=r"^unknown objective 'x{64}'; there are: latency, cost, energy$"):
        parameters.check_objective("x" * 1000)
