import ast
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from turnout_exporter.cli.next_steps import client, next_steps
from turnout_exporter.spec.points import Limits
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
    assert "  turnout-server --model-repository models" in next_steps(Path("models/words/1"), SIGNATURE, {})


def arrays(signature: Signature, limits: Mapping[str, Limits]) -> list[tuple[str, str, np.ndarray]]:
    """What the client sends."""
    lines = client("words", signature, limits)
    ast.parse("\n".join(lines))
    assert 'infer("words", inputs)' in lines[-2]
    sent = eval(lines[2].removeprefix("for name, datatype, array in ").removesuffix(":"), {"np": np})
    return list(sent)


def test_the_client_is_python_and_its_arrays_fit_the_inputs() -> None:
    sent = arrays(SIGNATURE, {"batch": Limits(1, 32), "seq": Limits(1, 512)})
    assert [(name, datatype, array.shape) for name, datatype, array in sent] == [
        ("ids", "INT64", (1, 8)),
        ("padding", "BOOL", (1, 8)),
        ("text", "BYTES", (1, 1)),
    ]
    assert sent[0][2].all()
    assert not sent[1][2].any()


@pytest.mark.parametrize(
    ("limits", "shape"),
    [
        ({"batch": Limits(1, 32), "seq": Limits(16, 4096)}, (1, 16)),
        ({"batch": Limits(2, 16), "seq": Limits(1, 5)}, (2, 5)),
        ({"batch": Limits(1, 32), "seq": Limits(3, 99, 4)}, (1, 7)),
    ],
)
def test_the_client_sends_sizes_that_the_server_takes(limits: dict[str, Limits], shape: tuple[int, ...]) -> None:
    assert arrays(SIGNATURE, limits)[0][2].shape == shape


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (TensorSpec("ids", "INT64", ("batch",), (1000, 1010)), 1000),
        (TensorSpec("ids", "INT32", ("batch",), (-5, 0)), -5),
        (TensorSpec("ids", "INT64", ("batch",), (0, 1)), 0),
        (TensorSpec("image", "FP32", ("batch",), (0.0, 1.0)), 0.0),
        (TensorSpec("image", "FP32", ("batch",), (-2.5, -0.5)), -2.5),
        (TensorSpec("image", "FP32", ("batch",)), 1.0),
        (TensorSpec("index", "INT64", ("batch",), limit="<batch"), 0),
        (TensorSpec("lengths", "INT64", ("batch",), kind="lengths", limit="<=batch"), 1),
    ],
)
def test_the_client_sends_values_that_the_server_takes(spec: TensorSpec, value: float) -> None:
    ((_, _, array),) = arrays(Signature([spec], [LOGITS]), {})
    assert array.tolist() == [value]


def test_each_precision_that_a_request_may_choose_is_named() -> None:
    lines = next_steps(Path("models/words/1"), SIGNATURE, {}, ["int8"])
    assert lines[-1] == "  # infer(..., parameters={'precision': 'int8'}) chooses that file"
    assert "precision" not in "\n".join(next_steps(Path("models/words/1"), SIGNATURE, {}))
