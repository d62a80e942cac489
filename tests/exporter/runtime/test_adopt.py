from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from turnout_exporter.errors import SourceError
from turnout_exporter.jobs import AdoptJob
from turnout_exporter.runtime import adopt
from turnout_exporter.runtime.sessions import open_session, run_session
from turnout_exporter.spec import reference
from turnout_exporter.spec.points import Point
from turnout_exporter.spec.reference import Sample

from tests.exporter.runtime.models import DOUBLED, SILENT, save


def adopted(tmp_path: Path, source: Path) -> onnx.ModelProto:
    samples = [Sample(Point({"batch": rows}), {}, {"y": np.zeros((rows, 4), np.float32)}) for rows in (2, 1)]
    reference.write(tmp_path / "reference", samples)
    job = AdoptJob(str(source), str(tmp_path / "model.onnx"), str(tmp_path / "reference"), {"turnout.task": "toy"})
    assert adopt.run(vars(job), SILENT)["opset"] == 20
    return onnx.load(tmp_path / "model.onnx")


def test_a_copy_keeps_its_metadata_and_gets_ours(tmp_path: Path) -> None:
    source = save(tmp_path, DOUBLED)
    model = onnx.load(source)
    onnx.helper.set_model_props(model, {"author": "someone"})
    onnx.save(model, source)
    copy = adopted(tmp_path, source)
    assert {entry.key: entry.value for entry in copy.metadata_props} == {"author": "someone", "turnout.task": "toy"}


def save_with_external_data(folder: Path) -> Path:
    """x + [1, 2, 3, 4], with its weights in weights.bin."""
    source = save(folder, "shift (float[batch, 4] x, float[4] w) => (float[batch, 4] y) { y = Add(x, w) }")
    model = onnx.load(source)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3, 4], np.float32), "w"))
    del model.graph.input[1]
    onnx.save(model, source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return source


@pytest.mark.parametrize("declared", ["float[1, 4] y", "float[batch, 2, 3] y", "float y"])
def test_an_output_is_declared_with_its_measured_shape(tmp_path: Path, declared: str) -> None:
    copy = adopted(tmp_path, save(tmp_path, DOUBLED.replace("float[batch, 4] y", declared)))
    dims = copy.graph.output[0].type.tensor_type.shape.dim
    assert [(dim.dim_param, dim.dim_value) for dim in dims] == [("batch", 0), ("", 4)]


def test_external_data_comes_along(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    adopted(tmp_path, save_with_external_data(folder))
    answer = run_session(open_session(tmp_path / "model.onnx"), {"x": np.zeros((1, 4), np.float32)})
    assert answer["y"].tolist() == [[1, 2, 3, 4]]


def test_missing_external_data_is_reported(tmp_path: Path) -> None:
    source = save_with_external_data(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(SourceError, match=r"source.onnx can't be read with its external data"):
        adopted(tmp_path, source)
