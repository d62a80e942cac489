import pytest
import torch
from turnout_exporter.pytorch.export import reason, root_of


def wrapped(inner: Exception) -> RuntimeError:
    try:
        try:
            raise inner
        except Exception as error:
            raise RuntimeError("pages of advice") from error
    except RuntimeError as outer:
        return outer


def test_the_reason_is_the_first_lines_of_the_root_cause() -> None:
    error = wrapped(ValueError("\x1b[31mwrong\x1b[0m\n\n  shape\nc\nd\ne"))
    assert reason(error) == "ValueError: wrong shape c d"
    assert isinstance(root_of(error), ValueError)


@pytest.mark.parametrize(
    "text",
    [
        "No ONNX function found for <OpOverload(op='aten._linalg_svd', overload='default')>. Failure message: ...",
        "Exporting the operator 'aten::_linalg_svd' to ONNX opset version 20 is not supported. Please feel free to ...",
    ],
)
def test_a_missing_operator_is_named_without_advice(text: str) -> None:
    expected = "the operator aten._linalg_svd has no counterpart in ONNX; compute it outside of the model"
    assert reason(torch.onnx.errors.OnnxExporterError(text)) == expected
