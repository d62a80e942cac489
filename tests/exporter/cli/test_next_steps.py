import ast
from pathlib import Path

import numpy as np
from turnout_exporter.cli.next_steps import client, next_steps
from turnout_exporter.spec.signature import Signature, TensorSpec

LOGITS = TensorSpec("logits", "FP32", ("batch", 2))
SIGNATURE = Signature(
    [
        TensorSpec("ids", "INT64", ("batch", "seq"), (0, 100)),
        TensorSpec("padding", "BOOL", ("batch", "seq"), kind="padding"),
        TensorSpec("text", "BYTES", ("batch", 1)),
    ],
    [LOGITS],
)


def test_the_command_that_serves_the_model_names_its_repository() -> None:
    assert "  turnout-server --model-repository models" in next_steps(Path("models/words/1"), SIGNATURE)


def test_the_client_is_python_and_its_arrays_fit_the_inputs() -> None:
    lines = client("words", SIGNATURE)
    ast.parse("\n".join(lines))
    sent = eval(lines[2].removeprefix("for name, datatype, array in ").removesuffix(":"), {"np": np})
    assert [(name, datatype, array.shape) for name, datatype, array in sent] == [
        ("ids", "INT64", (1, 8)),
        ("padding", "BOOL", (1, 8)),
        ("text", "BYTES", (1, 1)),
    ]
    assert not sent[1][2].any()
    assert 'infer("words", inputs)' in lines[-2]


def test_each_precision_that_a_request_may_choose_is_named() -> None:
    lines = next_steps(Path("models/words/1"), SIGNATURE, ["int8"])
    assert lines[-1] == "  # infer(..., parameters={'precision': 'int8'}) chooses that file"
    assert "precision" not in "\n".join(next_steps(Path("models/words/1"), SIGNATURE))
