import numpy as np
import pytest
from turnout_exporter.errors import ConversionError, SpecError
from turnout_exporter.spec import signature
from turnout_exporter.spec.inputspec import parse_inputs
from turnout_exporter.spec.points import Point
from turnout_exporter.spec.reference import Sample
from turnout_exporter.spec.signature import Signature, TensorSpec

SIZES = [(2, 3), (1, 3), (7, 3), (2, 10)]


def samples(**shapes: tuple[str, ...]) -> list[Sample]:
    """One sample for each of SIZES, with outputs whose dimensions are expressions of `batch` and `seq`."""
    return [
        Sample(
            Point({"batch": batch, "seq": seq}),
            outputs={
                name: np.zeros([eval(dim, {"batch": batch, "seq": seq}) for dim in dims], np.float32)
                for name, dims in shapes.items()
            },
        )
        for batch, seq in SIZES
    ]


def test_an_output_dimension_is_named_after_the_input_dimension_that_it_equals() -> None:
    (spec,) = signature.outputs_of(samples(logits=("batch", "seq", "10", "2 * seq")))
    assert spec.shape == ("batch", "seq", 10, -1)
    assert spec.numeric_shape == (-1, -1, 10, -1)


def test_axis_0_is_a_batch_when_every_tensor_has_it_there() -> None:
    inputs = parse_inputs(["a=float32[batch,4]", "b=float32[batch]"])
    assert signature.measure(inputs, samples(y=("batch", "2"), z=("batch",))).batch_axis == 0


@pytest.mark.parametrize("shape", [(), ("10",), ("seq", "batch"), ("2 * batch",)])
def test_axis_0_is_not_a_batch_when_an_output_does_not_grow_with_it(shape: tuple[str, ...]) -> None:
    inputs = parse_inputs(["a=float32[batch,4]"])
    assert signature.measure(inputs, samples(y=("batch", "2"), z=shape)).batch_axis is None


def test_axis_0_is_not_a_batch_when_an_input_lacks_it() -> None:
    inputs = parse_inputs(["a=float32[batch,4]", "scale=float32[1]"])
    assert signature.measure(inputs, samples(y=("batch",))).batch_axis is None


def test_axis_0_is_not_a_batch_when_rows_depend_on_each_other() -> None:
    measured = signature.measure(parse_inputs(["a=float32[batch,4]"]), samples(y=("batch", "2")), ["y"])
    assert measured.batch_axis is None
    assert signature.with_labels(measured, ("cat", "dog")).batch_axis is None


def test_an_output_of_a_type_that_the_protocol_lacks_is_refused() -> None:
    with pytest.raises(ConversionError, match="complex64"):
        signature.outputs_of([Sample(Point({}), outputs={"y": np.zeros(2, np.complex64)})])


def test_labels_go_to_the_output_whose_last_axis_has_their_number() -> None:
    boxes, scores = TensorSpec("boxes", "FP32", ("batch", 4)), TensorSpec("scores", "FP32", ("batch", 2))
    labelled = signature.with_labels(Signature([], [boxes, scores]), ("cat", "dog"))
    assert [spec.labels for spec in labelled.outputs] == [(), ("cat", "dog")]


@pytest.mark.parametrize("width", [3, "seq"])
def test_labels_that_fit_no_output_are_refused_with_the_outputs(width: int | str) -> None:
    with pytest.raises(SpecError, match=r"2 labels fit 0 outputs.*scores FP32\[batch,"):
        signature.with_labels(Signature([], [TensorSpec("scores", "FP32", ("batch", width))]), ("cat", "dog"))


def test_an_output_that_loses_a_dimension_at_one_row_is_reported_with_both_shapes() -> None:
    squeezed = [Sample(Point({"batch": rows}), outputs={"y": np.zeros((rows, 4)).squeeze()}) for rows in (2, 1)]
    with pytest.raises(ConversionError, match=r"'y' is \[2, 4\] at batch=2 but \[4\] at batch=1"):
        signature.outputs_of(squeezed)


def test_an_output_that_is_missing_at_one_point_is_named() -> None:
    samples = [Sample(Point({"batch": 2}), outputs={"y": np.zeros(2)}), Sample(Point({"batch": 1}))]
    with pytest.raises(ConversionError, match=r"'y' is .* at batch=2 but missing at batch=1"):
        signature.outputs_of(samples)
