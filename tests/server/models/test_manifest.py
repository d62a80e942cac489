import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turnout_server.core.errors import InvalidRequest
from turnout_server.core.messages import InferRequest
from turnout_server.core.signatures import Signature
from turnout_server.models import manifest

from tests.server.fakes import spec

CONTENT: dict[str, Any] = {
    "inputs": [
        {"name": "ids", "datatype": "INT64", "shape": ["batch", "seq"], "range": [0, 30522]},
        {"name": "image", "datatype": "FP32", "shape": ["batch", 3, "height"], "range": [0.0, 1.0]},
    ],
    "sizes": {
        "batch": {"min": 1, "max": 8, "step": 1},
        "seq": {"min": 1, "max": 512, "step": 1},
        "height": {"min": 64, "max": 640, "step": 32},
    },
    "files": {"model.onnx": {"tolerance": 0.0001}, "model.int8.onnx": {"tolerance": 0.22}, "model.onnx.data": {}},
}
SIGNATURE = Signature((spec("ids", -1, -1, datatype="INT64"), spec("image", -1, 3, -1)), (spec("y", -1, 2),), 32)


@pytest.fixture
def limited(tmp_path: Path) -> Signature:
    (tmp_path / "model.json").write_text(json.dumps(CONTENT))
    return manifest.read(tmp_path).limit(SIGNATURE)


def request(seq: int = 4, height: int = 64, value: int = 7, rows: int = 16) -> InferRequest:
    inputs = {"ids": np.full((rows, seq), value), "image": np.full((rows, 3, height), 9.0, np.float32)}
    return InferRequest(model="bert", version="", id="", inputs=inputs, outputs=(), arrived_s=0.0)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"seq": 513}, r"input 'ids' of model 'bert': 'seq' is 513, allowed 1\.\.512"),
        ({"height": 672}, r"'height' is 672, allowed 64\.\.640 in steps of 32"),
        ({"height": 65}, r"'height' is 65, allowed 64\.\.640 in steps of 32"),
    ],
)
def test_sizes_that_were_not_proven_are_refused_by_name(limited: Signature, sizes: dict[str, int], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        limited.rows_of(request(**sizes))


def test_proven_sizes_are_taken_and_the_batch_is_limited_by_the_configuration(limited: Signature) -> None:
    assert limited.rows_of(request(seq=512, height=640, rows=16)) == 16
    assert SIGNATURE.rows_of(request(seq=513)) == 16


@pytest.mark.parametrize("value", [-1, 30522, 2**40])
def test_integers_beyond_their_range_are_refused_with_the_value(limited: Signature, value: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"input 'ids' has the value {value}, and 0\.\.30521 is allowed"):
        limited.check_values(request(value=value).inputs)
    limited.check_values(request(value=30521).inputs)


def test_every_file_has_its_own_tolerance(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(CONTENT))
    assert manifest.read(tmp_path).tolerances == {"model.onnx": 0.0001, "model.int8.onnx": 0.22}


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"inputs": 3}', '{"inputs": [{}]}', '{"sizes": {"a": 1}}', "NaN", "[" * 100_000]
)
def test_a_file_that_is_something_else_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.json").write_text(content)
    assert manifest.read(tmp_path) == manifest.Manifest()
    assert manifest.read(tmp_path / "missing") == manifest.Manifest()
