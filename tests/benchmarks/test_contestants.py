"""The request of a case, and the check of a server's answer before it is measured."""

import numpy as np
import pytest
from turnout_loadtests.payloads import infer_request
from turnout_proto import inference_pb2 as pb

from benchmarks.cases import CASES, Case
from benchmarks.contestants import check_answer

EXPECTED = {"y": np.array([[1.0, 2.0]], np.float32)}


def answer(name: str = "y", values: tuple[float, ...] = (1.0, 2.0)) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(raw_output_contents=[np.array(values, np.float32).tobytes()])
    response.outputs.add(name=name, datatype="FP32", shape=[1, len(values)])
    return response


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request_has_one_row_for_each_input_and_no_parameters(case: Case) -> None:
    request = case.request()

    assert request == infer_request(case.name, case.tensors())
    assert [tuple(tensor.shape) for tensor in request.inputs] == [(1, *shape) for _, shape in case.inputs]
    assert not request.parameters


def test_the_expected_answer_is_accepted() -> None:
    check_answer(answer(), EXPECTED)


@pytest.mark.parametrize("wrong", [answer(values=(1.0, 2.5)), answer(values=(1.0,)), answer("z"), pb.ModelInferResponse()])
def test_any_other_answer_is_refused(wrong: pb.ModelInferResponse) -> None:
    with pytest.raises(AssertionError):
        check_answer(wrong, EXPECTED)


def test_an_answer_whose_outputs_are_not_raw_bytes_is_refused() -> None:
    typed = answer()
    typed.outputs[0].contents.fp32_contents.extend([1.0, 2.0])
    del typed.raw_output_contents[:]

    with pytest.raises(AssertionError, match="raw outputs"):
        check_answer(typed, EXPECTED)
