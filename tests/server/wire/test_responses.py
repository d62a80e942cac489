"""Tests that the composed segments equal the message that protobuf would serialise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_proto import inference_pb2 as pb
from turnout_server.core.messages import Provenance
from turnout_server.wire import responses
from turnout_server.wire.tensors import to_raw

from tests.wire import DTYPES

TIMINGS = st.dictionaries(st.text(max_size=20), st.integers(-(2**63), 2**63 - 1), max_size=5)
TEXT = st.text(max_size=40)


@given(st.builds(Provenance, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT), TEXT, TIMINGS)
def test_joined_segments_parse_as_one_message(provenance: Provenance, request_id: str, timings: dict[str, int]) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    strings = {key: getattr(provenance, key) for key in ("device", "device_requested", "route_reason", "precision")}
    timings = {key: value for key, value in timings.items() if key not in strings}
    segments = [responses.head(provenance), responses.request_id(request_id)]
    segments += [responses.timing(key, value) for key, value in timings.items()]
    message = pb.ModelInferResponse.FromString(
        responses.join([*segments, responses.tensor("y", "FP32", (2, 3), array.nbytes), array])
    )
    assert (message.model_name, message.model_version, message.id) == (provenance.model, provenance.version, request_id)
    kinds = {key: value.WhichOneof("parameter_choice") for key, value in message.parameters.items()}
    assert kinds == dict.fromkeys(strings, "string_param") | dict.fromkeys(timings, "int64_param")
    assert {key: message.parameters[key].string_param for key in strings} == strings
    assert {key: message.parameters[key].int64_param for key in timings} == timings
    assert [(output.name, output.datatype, list(output.shape)) for output in message.outputs] == [("y", "FP32", [2, 3])]
    assert list(message.raw_output_contents) == [array.tobytes()]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_contents_of_any_length_are_read_back(size: int) -> None:
    data = bytes(size)
    message = pb.ModelInferResponse.FromString(responses.join([responses.contents(size), data, responses.contents(1), b"x"]))
    assert list(message.raw_output_contents) == [data, b"x"]


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
@pytest.mark.parametrize("step", [1, 2], ids=["contiguous", "strided"])
def test_numbers_are_joined_as_their_bytes(datatype: str, step: int) -> None:
    array = np.arange(8).reshape(4, 2).astype(DTYPES[datatype])[::step]
    assert responses.join([to_raw(array)]) == array.tobytes()


def test_a_response_in_a_stream_is_unchanged_but_marked_as_the_last() -> None:
    answer = pb.ModelInferResponse(id="7", raw_output_contents=[bytes(1000)])
    message = pb.ModelStreamInferResponse.FromString(responses.in_stream(answer.SerializeToString()))
    answer.parameters["triton_final_response"].bool_param = True
    assert message.infer_response == answer
    assert message.error_message == ""
