import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_exporter.errors import SpecError
from turnout_exporter.spec.datatypes import BY_DTYPE_NAME
from turnout_exporter.spec.inputspec import InputSpec, dims_of, parse_inputs


def test_an_image_has_a_name_a_dtype_and_dimensions() -> None:
    spec = InputSpec.parse("image=float32[batch,3,224,224]")
    assert (spec.name, spec.datatype.name, spec.dims, spec.bounds) == ("image", "FP32", ("batch", 3, 224, 224), None)


def test_spaces_between_dimensions_are_allowed() -> None:
    assert InputSpec.parse("x=float32[batch, 3]").dims == ("batch", 3)


def test_a_scalar_has_no_dimensions() -> None:
    assert InputSpec.parse("x=float64[]").dims == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("image", "write name=dtype"),
        ("=float32[2]", "write name=dtype"),
        ("x=float32", "write name=dtype"),
        ("x=float32[2]@0", "write name=dtype"),
        ("x=float31[2]", "unknown dtype 'float31'"),
        ("x=bfloat16[2]", "unknown dtype 'bfloat16'"),
        ("x=float32[0]", "dimension '0'"),
        ("x=float32[-1]", "dimension '-1'"),
        ("x=float32[batch,,3]", "dimension ''"),
        ("x=float32[2d]", "dimension '2d'"),
        ("x=int64[batch]", "integers need the range.*x=int64\\[batch\\]@0:1000"),
        ("x=int64[2]@0:1.5", "'1.5' in its range is not int"),
        ("x=float32[2]@a:1", "'a' in its range is not float"),
        ("x=int64[2]@5:5", "no value from 5 up to but without 5"),
        ("x=float32[2]@0:inf", "no value from 0.0 up to"),
        ("x=float32[2]@nan:1", "no value from nan up to"),
        ("x=uint8[2]@0:257", "uint8 holds 0 to 255 only"),
        ("x=float16[2]@0:1e6", "float16 holds"),
        ("x=bool[2]@0:2", "bool takes no range"),
    ],
)
def test_the_part_that_cannot_be_parsed_is_named(text: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        InputSpec.parse(text)


def test_the_same_input_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="input 'x' is given 2 times"):
        parse_inputs(["x=float32[2]", "x=float32[3]"])


def test_free_dimensions_come_once_in_order_of_appearance() -> None:
    assert dims_of(parse_inputs(["a=float32[batch,seq]", "b=float32[seq,4,batch,width]"])) == ["batch", "seq", "width"]


names = st.from_regex(r"[a-z_][a-z0-9_.]{0,8}", fullmatch=True)
dims = st.lists(st.integers(1, 9) | st.sampled_from(["batch", "seq"]), max_size=4).map(tuple)


@st.composite
def specs(draw: st.DrawFn) -> InputSpec:
    datatype = draw(st.sampled_from([*BY_DTYPE_NAME.values()]))
    if datatype.dtype.kind == "b":
        bounds = None
    elif datatype.dtype.kind == "f":
        low = draw(st.floats(-1000, 999, width=16))
        bounds = draw(st.none() | st.just((low, low + 1.0)))
    else:
        low = draw(st.integers(np.iinfo(datatype.dtype).min, np.iinfo(datatype.dtype).max))
        bounds = (low, draw(st.integers(low + 1, int(np.iinfo(datatype.dtype).max) + 1)))
    return InputSpec(draw(names), datatype, draw(dims), bounds)


@given(specs())
def test_a_spec_reads_the_same_again_from_its_text(spec: InputSpec) -> None:
    assert InputSpec.parse(str(spec)) == spec


@given(specs(), st.integers(0, 2**32))
def test_drawn_values_have_the_shape_and_dtype_and_lie_in_the_range(spec: InputSpec, seed: int) -> None:
    array = spec.draw({"batch": 2, "seq": 3}, np.random.default_rng(seed))
    assert array.dtype == spec.datatype.dtype
    assert array.shape == spec.shape({"batch": 2, "seq": 3})
    if spec.bounds and array.dtype.kind in "iu":
        assert np.all((array >= spec.bounds[0]) & (array <= int(spec.bounds[1]) - 1))
