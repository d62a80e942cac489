import onnx
import onnx_ir
import pytest
from turnout_exporter.pytorch import graph
from turnout_exporter.spec.signature import TensorSpec


def exported() -> onnx_ir.Model:
    """y = -relu(x), with a stack trace on every node and value, and a size that only the example had."""
    model = onnx_ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20]>
        main (float[batch, 3, 8] x) => (float[batch, 3, 8] y) <float[batch, 3, 8] inner> { inner = Relu(x)  y = Neg(inner) }"""
    )
    annotated = [model.graph, *model.graph, *model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for each in annotated:
        each.metadata_props["stack_trace"] = "/home/someone/model.py"
    return model


def test_no_stack_trace_is_left_anywhere() -> None:
    model = exported()
    assert b"/home/someone" in onnx_ir.to_proto(model).SerializeToString()
    graph.strip_metadata(model)
    assert b"/home/someone" not in onnx_ir.to_proto(model).SerializeToString()


@pytest.mark.parametrize(
    "text",
    [
        "main (float[2] x) => (float[2] neg, float[2] y) { n = Relu(x)  m = Neg(n)  neg = Abs(m)  y = Add(n, m) }",
        "main (float[2] neg) => (float[2] y) { n = Relu(neg)  m = Neg(n)  y = Add(n, m) }",
        "main (float[2] x) => (float[2] neg) <float[2] w = {1, 2}> { n = Mul(x, w)  m = Neg(n)  neg = Add(n, m) }",
    ],
)
@pytest.mark.parametrize("inner", ["m", "n", "w"])
def test_an_inner_value_that_is_called_like_an_output_or_input_gets_another_name(text: str, inner: str) -> None:
    model = onnx_ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    names = [value.name for value in (*model.graph.inputs, *model.graph.outputs)]
    values = [*model.graph.initializers.values(), *(value for node in model.graph for value in node.outputs)]
    for value in values:
        value.name = "neg" if value.name == inner else value.name
    graph.make_names_unique(model)
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == names
    onnx.checker.check_model(onnx_ir.to_proto(model))


def test_outputs_are_declared_as_measured_and_inner_shapes_are_removed() -> None:
    model = exported()
    graph.correct_shapes(model, [TensorSpec("y", "FP32", ("batch", "seq", 8))])
    assert str(model.graph.outputs[0].shape) == "[batch,seq,8]"
    assert model.graph[0].outputs[0].shape is None


def test_a_size_that_follows_from_others_is_declared_free() -> None:
    model = exported()
    graph.correct_shapes(model, [TensorSpec("y", "FP32", ("batch", -1, 8))])
    assert str(model.graph.outputs[0].shape) == "[batch,None,8]"
