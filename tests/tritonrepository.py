"""A repository as written by hand for Triton: it has config.pbtxt files, but none of Turnout's own."""

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests import models

#: The config.pbtxt of each model.
CONFIGURATIONS = {
    "simple": """
        name: "simple"
        platform: "onnxruntime_onnx"
        max_batch_size: 8
        input [
          { name: "INPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
          { name: "INPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
        ]
        output [
          { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
          { name: "OUTPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
        ]
        instance_group [ { count: 1 kind: KIND_CPU } ]
        dynamic_batching { }
        """,
    "strings": """
        backend: "onnxruntime"
        max_batch_size: 8
        input { name: "INPUT" data_type: TYPE_STRING dims: [ -1 ] }
        output { name: "OUTPUT" data_type: TYPE_STRING dims: [ -1 ] }
        """,
    "classifier": """
        max_batch_size: 4
        input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
        output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "fruits.txt" }
        model_warmup {
          name: "zeros"
          batch_size: 2
          inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4 ] zero_data: true } }
        }
        model_warmup {
          name: "recorded"
          batch_size: 1
          count: 2
          inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "ones" } }
        }
        """,
    "unbatched_classifier": """
        max_batch_size: 0
        input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
        output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "fruits.txt" }
        """,
    "squares": """
        max_batch_size: 4
        input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 2 ] } }
        output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 2 ] } }
        """,
    "renamed": """
        default_model_filename: "weights.onnx"
        parameters { key: "intra_op_thread_count" value { string_value: "1" } }
        parameters { key: "execution_mode" value { string_value: "0" } }
        optimization { graph { level: 1 } }
        """,
    "chosen": "version_policy { specific { versions: [ 1, 3 ] } }",
    "newest": "version_policy { latest { num_versions: 2 } }",
}

FRUITS = ("apple", "banana", "cherry", "date")


def integer_add_sub() -> ModelProto:
    """OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1; all are int32 (batch, 16)."""
    tensor: models.Tensor = (TensorProto.INT32, ("batch", 16))
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    return models.model(nodes, {"INPUT0": tensor, "INPUT1": tensor}, {"OUTPUT0": tensor, "OUTPUT1": tensor})


def double(shape: models.Shape) -> ModelProto:
    """y = x + x; float32."""
    tensor: models.Tensor = (TensorProto.FLOAT, shape)
    return models.model([helper.make_node("Add", ["x", "x"], ["y"])], {"x": tensor}, {"y": tensor})


def save(root: Path) -> None:
    """Writes the repository into the directory `root`."""
    models.save(root, "simple", integer_add_sub())
    models.save(root, "strings", models.identity("BYTES", ("batch", "n")))
    models.save(root, "classifier", double(("batch", 4)))
    models.save(root, "unbatched_classifier", double((4,)))
    models.save(root, "squares", double(("batch", 2, 2)))
    models.save(root, "slow", models.countdown())
    models.save(root, "renamed", models.add_constant(1))
    (root / "renamed" / "1" / "model.onnx").rename(root / "renamed" / "1" / "weights.onnx")
    for name in ("chosen", "newest"):
        for version in (1, 2, 3):
            models.save(root, name, models.add_constant(version), version)
    for name, configuration in CONFIGURATIONS.items():
        (root / name / "config.pbtxt").write_text(configuration)
    for name in ("classifier", "unbatched_classifier"):
        (root / name / "fruits.txt").write_text("\n".join(FRUITS) + "\n")
    (root / "classifier" / "warmup").mkdir()
    np.ones(4, np.float32).tofile(root / "classifier" / "warmup" / "ones")
