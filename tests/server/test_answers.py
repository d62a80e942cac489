"""Parts joined are the message that protobuf would have written in one go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_proto import inference_pb2 as pb
from turnout_server import answers
from turnout_server.tensors import to_raw

from tests.wire import DTYPES

VALUES = st.text(max_size=40) | st.integers(-(2**63), 2**63 - 1) | st.booleans()


@given(st.text(max_size=40), st.text(max_size=40), st.dictionaries(st.text(max_size=20), VALUES, max_size=5))
def test_parts_joined_parse_as_one_message(model: str, request_id: str, parameters: dict[str, str | int | bool]) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    parts = [answers.head(model, "3"), answers.request_id(request_id)]
    parts += [answers.parameter(key, value) for key, value in parameters.items()]
    message = pb.ModelInferResponse.FromString(answers.join([*parts, answers.tensor("y", "FP32", (2, 3), array.nbytes), array]))
    assert (message.model_name, message.model_version, message.id) == (model, "3", request_id)
    kinds = {bool: "bool_param", str: "string_param", int: "int64_param"}
    assert {key: getattr(message.parameters[key], kinds[type(value)]) for key, value in parameters.items()} == parameters
    assert [(output.name, output.datatype, list(output.shape)) for output in message.outputs] == [("y", "FP32", [2, 3])]
    assert list(message.raw_output_contents) == [array.tobytes()]


def test_true_and_one_are_not_the_same_parameter() -> None:
    kinds = [
        pb.ModelInferResponse.FromString(answers.parameter("key", value)).parameters["key"].WhichOneof("parameter_choice")
        for value in (1, True, 1, "1")
    ]
    assert kinds == ["int64_param", "bool_param", "int64_param", "string_param"]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_contents_of_every_length_are_found_again(size: int) -> None:
    data = bytes(size)
    message = pb.ModelInferResponse.FromString(answers.join([answers.contents(size), data, answers.contents(1), b"x"]))
    assert list(message.raw_output_contents) == [data, b"x"]


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
@pytest.mark.parametrize("step", [1, 2], ids=["in one piece", "with gaps"])
def test_numbers_are_joined_as_their_bytes(datatype: str, step: int) -> None:
    array = np.arange(8).reshape(4, 2).astype(DTYPES[datatype])[::step]
    assert answers.join([to_raw(array)]) == array.tobytes()


def test_an_answer_in_a_stream_is_the_answer() -> None:
    answer = pb.ModelInferResponse(id="7", raw_output_contents=[bytes(1000)])
    message = pb.ModelStreamInferResponse.FromString(answers.in_stream(answer.SerializeToString()))
    assert message.infer_response == answer
    assert message.error_message == ""
