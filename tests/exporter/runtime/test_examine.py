from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turnout_exporter.errors import ConversionError, Refused, SourceError, SpecError
from turnout_exporter.jobs import Examined
from turnout_exporter.runtime import examine
from turnout_exporter.spec import reference

from tests.exporter.runtime.models import DOUBLED, GATHERED, SILENT, examine_job, save

TREE = """classify (float[N, 2] x) => (int64[N] label, float[N, 2] scores)
    { label, scores = ai.onnx.ml.LinearClassifier <
        coefficients = [1.0, 0.0, 0.0, 1.0], classlabels_ints = [0, 1], intercepts = [0.0, 0.0]
    > (x) }"""
MAPPED = """classify (float[N, 2] x) => (seq(map(int64, float)) scores)
    { scores = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1]> (x) }"""
ML = ', "ai.onnx.ml" : 3'


def examined(tmp_path: Path, text: str, domains: str = "", **changes: Any) -> Examined:
    path = save(tmp_path, text, domains=domains)
    return Examined(**examine.run(asdict(examine_job(path, tmp_path, **changes)), SILENT))


def test_the_inputs_and_outputs_are_those_of_the_file(tmp_path: Path) -> None:
    found = examined(tmp_path, DOUBLED)
    assert (found.inputs, found.output_names) == (["x=float32[batch,4]"], ["y"])
    assert found.limits == {"batch": [1, 32, 1]}
    assert (found.precision, found.max_batch_size) == ("fp32", 32)
    for sample in reference.read(tmp_path / "reference"):
        np.testing.assert_allclose(sample.outputs["y"], 2 * sample.inputs["x"])


def test_axis_0_is_the_batch_whatever_the_converter_calls_it(tmp_path: Path) -> None:
    text = "both (float[N, seq] x, float[N, unk__6, 3] z) => (float[N, seq] y) { y = Add(x, x) }"
    assert examined(tmp_path, text).inputs == ["x=float32[batch,seq]", "z=float32[batch,unk__6,3]"]


def test_rows_that_depend_on_each_other_are_noticed(tmp_path: Path) -> None:
    text = "scale (float[N, 4] x) => (float[N, 4] y) { most = ReduceMax <keepdims = 1> (x)  y = Div(x, most) }"
    assert examined(tmp_path, text).mixed == ["y"]
    assert examined(tmp_path, DOUBLED).mixed == []


def test_the_sizes_grow_as_far_as_the_file_works(tmp_path: Path) -> None:
    text = """table (float[N, S] x) => (float[N, S] y) <float[40] t, int64[1] zero = {0}, int64[1] axis = {0}> {
        shape = Shape <start = 1> (x)  part = Slice(t, zero, shape, axis)  y = Add(x, part)
    }"""
    rows = text.replace("float[40] t", f"float[40] t = {{{', '.join(['1.0'] * 40)}}}")
    assert examined(tmp_path, rows).limits == {"batch": [1, 32, 1], "S": [1, 40, 1]}


def test_a_given_input_says_the_values(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="input 'ids' has no values"):
        examined(tmp_path, GATHERED)
    found = examined(tmp_path, GATHERED, inputs=["ids=int64[batch,seq]@0:4"], ranges={"seq": [1, 8, 1]})
    assert found.limits == {"batch": [1, 32, 1], "seq": [1, 8, 1]}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("z=float32[batch,4]", r"the file has no input z; it has x=float32\[batch,4\]"),
        ("x=float64[batch,4]", "isn't the file's"),
        ("x=float32[batch]", "isn't the file's"),
        ("x=float32[batch,width]", "isn't the file's, which is 'x=float32"),
    ],
)
def test_a_given_input_that_the_file_has_not_is_refused(tmp_path: Path, given: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        examined(tmp_path, DOUBLED, inputs=[given])


def test_a_size_that_is_free_in_the_file_may_be_fixed(tmp_path: Path) -> None:
    assert examined(tmp_path, GATHERED, inputs=["ids=int64[batch,7]@0:4"]).limits == {"batch": [1, 32, 1]}


def test_values_beyond_what_the_file_takes_are_refused_with_the_runtimes_reason(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="indices element out of data bounds"):
        examined(tmp_path, GATHERED, inputs=["ids=int64[batch,seq]@0:5"])


def test_a_file_that_draws_random_numbers_is_refused_with_the_operator(tmp_path: Path) -> None:
    noisy = "noise (float[N, 4] x) => (float[N, 4] y) { n = RandomNormalLike(x)  y = Add(x, n) }"
    with pytest.raises(ConversionError, match=r"answers differently each time.*RandomNormalLike"):
        examined(tmp_path, noisy)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        (MAPPED, "without ZipMap: options={'zipmap': False} in skl2onnx"),
        ("split (float[N, 4] x) => (seq(float[N, 1]) y) { y = SplitToSequence(x) }", "ConcatFromSequence"),
        ("narrow (float[N, 4] x) => (bfloat16[N, 4] y) { y = Cast <to = 16> (x) }", "cast it to one of bool, uint8"),
    ],
)
def test_an_output_that_cannot_be_served_is_refused_with_the_fix(tmp_path: Path, text: str, fix: str) -> None:
    with pytest.raises(SourceError, match=fix.replace("{", r"\{")):
        examined(tmp_path, text, domains=ML)


@pytest.mark.parametrize("content", [b"", b"not ONNX"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "source.onnx").write_bytes(content)
    with pytest.raises(Refused, match=r"ONNX Runtime can't load source\.onnx"):
        examine.run(asdict(examine_job(tmp_path / "source.onnx", tmp_path)), SILENT)


def reference_file(tmp_path: Path, body: str) -> str:
    (tmp_path / "truth.py").write_text(f"import numpy as np\ndef predict(inputs):\n    {body}\n")
    return f"{tmp_path / 'truth.py'}:predict"


@pytest.mark.parametrize("body", ["return inputs['x'].astype('float64') * 3", "return {'y': (inputs['x'] * 3).tolist()}"])
def test_a_function_of_the_users_says_what_is_right_in_the_files_type(tmp_path: Path, body: str) -> None:
    examined(tmp_path, DOUBLED, reference_function=reference_file(tmp_path, body))
    for sample in reference.read(tmp_path / "reference"):
        np.testing.assert_allclose(sample.outputs["y"], 3 * sample.inputs["x"], rtol=1e-6)
        assert sample.outputs["y"].dtype == np.float32


def test_outputs_that_the_function_does_not_give_come_from_the_file(tmp_path: Path) -> None:
    function = reference_file(tmp_path, "return {'label': np.full(len(inputs['x']), 7)}")
    examined(tmp_path, TREE, domains=ML, reference_function=function)
    (sample, *_) = reference.read(tmp_path / "reference")
    assert sample.outputs["label"].tolist() == [7, 7]
    np.testing.assert_allclose(sample.outputs["scores"], sample.inputs["x"], rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("return {'z': 1}", "returned 'z', which is no output; the file has y"),
        ("return inputs['x'][:, :2]", r"output 'y' has the shape \[2, 2\], and the file's has \[2, 4\]"),
        ("return inputs['x'].astype(str)", "output 'y' is str.*, and the file's is float32"),
        ("return inputs['y']", "raised KeyError: 'y'"),
    ],
)
def test_a_function_that_gives_something_else_is_reported(tmp_path: Path, body: str, complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        examined(tmp_path, DOUBLED, reference_function=reference_file(tmp_path, body))


def test_a_quantized_file_is_called_so(tmp_path: Path) -> None:
    text = """q (float[N, 4] x) => (float[N, 4] y) <float s = {0.1}, uint8 z = {128}>
        { i = QuantizeLinear(x, s, z)  y = DequantizeLinear(i, s, z) }"""
    assert examined(tmp_path, text).precision == "int8"
