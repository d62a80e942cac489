import onnx_ir
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


def test_outputs_are_declared_as_measured_and_inner_shapes_are_removed() -> None:
    model = exported()
    graph.correct_shapes(model, [TensorSpec("y", "FP32", ("batch", "seq", 8))])
    assert str(model.graph.outputs[0].shape) == "[batch,seq,8]"
    assert model.graph[0].outputs[0].shape is None


def test_a_size_that_follows_from_others_is_declared_free() -> None:
    model = exported()
    graph.correct_shapes(model, [TensorSpec("y", "FP32", ("batch", -1, 8))])
    assert str(model.graph.outputs[0].shape) == "[batch,None,8]"
