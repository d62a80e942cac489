import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_exporter.errors import SpecError
from turnout_exporter.spec.datatypes import BY_SPELLING
from turnout_exporter.spec.inputspec import Bounds, InputSpec, dims_of, parse_inputs


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
        ("x=float32[2]@0", "'0' is no range of values"),
        ("x=float31[2]", "unknown dtype 'float31'"),
        ("x=bfloat16[2]", "unknown dtype 'bfloat16'"),
        ("x=float32[0]", "dimension '0'"),
        ("x=float32[-1]", "dimension '-1'"),
        ("x=float32[batch,,3]", "dimension ''"),
        ("x=float32[2d]", "dimension '2d'"),
        ("x=int64[2]@0:1.5", "'1.5' in its range is not int"),
        ("x=float32[2]@a:1", "'a' in its range is not float"),
        ("x=int64[2]@5:5", "no value from 5 up to but without 5"),
        ("x=float32[2]@0:inf", "no value from 0.0 up to"),
        ("x=float32[2]@nan:1", "no value from nan up to"),
        ("x=uint8[2]@0:257", "uint8 holds 0 to 255 only"),
        ("x=float16[2]@0:1e6", "float16 holds"),
        ("x=bool[2]@0:3", "bool holds 0 to 1 only"),
        ("m=mask[]", "a mask has dimensions"),
        ("m=mask[batch,seq]@0:2", "a mask has dimensions, such as m=mask\\[batch,seq\\], and no values"),
        ("m=mask:text[batch]", "unknown dtype 'mask:text'"),
        ("n=lengths[batch]", r"say which size limits the lengths, such as n=lengths\[batch\]<=seq"),
        ("x=float32[batch]<seq", "only integers can be limited"),
        ("n=lengths[batch,2]<=seq:sorted", "only an input with one dimension can be sorted"),
        ("a/b=float32[2]", "write name=dtype"),
    ],
)
def test_the_part_that_cannot_be_parsed_is_named(text: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        InputSpec.parse(text)


def test_the_same_input_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="input 'x' is given 2 times"):
        parse_inputs(["x=float32[2]", "x=float32[3]"])


def test_a_limit_must_be_a_dimension_of_some_input() -> None:
    with pytest.raises(SpecError, match="no input has a dimension 'sqe'; there are batch"):
        parse_inputs(["n=lengths[batch]<=sqe"])


def test_only_integers_without_any_hint_need_values() -> None:
    texts = ["a=int64[2]", "b=int64[2]@0:5", "c=mask[2]", "d=int64[2]<e", "e=float32[e]", "f=bool[2]", "g=string[2]"]
    assert [spec.name for spec in parse_inputs(texts) if spec.needs_values] == ["a"]
    with pytest.raises(SpecError, match="input 'a' has no values: give it a range"):
        InputSpec.parse("a=int64[2]").draw({}, np.random.default_rng())


def drawn(text: str, **sizes: int) -> np.ndarray:
    return InputSpec.parse(text).draw(sizes, np.random.default_rng(1))


@pytest.mark.parametrize(("text", "counted"), [("m=mask[batch,seq]", 1), ("m=padding[batch,seq]", 0), ("mask[batch,seq]", 1)])
@pytest.mark.parametrize("seq", [1, 2, 9])
def test_each_row_of_a_mask_counts_a_run_from_its_start(text: str, counted: int, seq: int) -> None:
    mask = drawn(text, batch=5, seq=seq) == counted
    lengths = mask.sum(1)
    assert lengths.min() >= 1
    assert np.array_equal(mask, np.arange(seq) < lengths[:, None])
    if seq > 1:
        assert seq in lengths
        assert lengths.min() < seq


def test_a_mask_has_the_dtype_that_is_asked_for() -> None:
    assert drawn("m=mask[2,3]").dtype == np.int64
    assert drawn("m=padding[2,3]").dtype == np.bool_
    assert drawn("m=mask:float32[2,3]").dtype == np.float32


def test_lengths_reach_from_one_to_the_size_and_can_be_sorted() -> None:
    lengths = drawn("n=lengths[batch]<=seq", batch=20, seq=7)
    assert (lengths.min(), lengths.max()) == (1, 7)
    descending = drawn("n=lengths[batch]<=seq:sorted", batch=20, seq=7)
    assert list(descending) == sorted(descending, reverse=True)


def test_an_index_stays_below_the_size() -> None:
    places = drawn("i=int64[batch]<seq", batch=50, seq=4)
    assert (places.min(), places.max()) == (0, 3)


def test_a_boolean_may_have_a_range() -> None:
    assert drawn("b=bool[9]@0:1").sum() == 0
    assert set(drawn("b=bool[9]").tolist()) == {False, True}


def test_the_ends_of_a_range_of_integers_are_among_the_values() -> None:
    assert {3, 1000} <= set(drawn("x=int64[4]@3:1001").tolist())


def test_a_text_takes_the_given_words() -> None:
    assert set(drawn("t=string[30]@yes|no").tolist()) == {"yes", "no"}
    assert drawn("t=string[3]").dtype.kind == "U"


def test_free_dimensions_come_once_in_order_of_appearance() -> None:
    assert dims_of(parse_inputs(["a=float32[batch,seq]", "b=float32[seq,4,batch,width]"])) == ["batch", "seq", "width"]


names = st.from_regex(r"[a-z_][a-z0-9_.]{0,8}", fullmatch=True)
dims = st.lists(st.integers(1, 9) | st.sampled_from(["batch", "seq"]), max_size=4).map(tuple)


@st.composite
def specs(draw: st.DrawFn) -> InputSpec:
    datatype = draw(st.sampled_from([*BY_SPELLING.values()]))
    bounds: Bounds | None = None
    choices: tuple[str, ...] = ()
    if datatype.dtype.kind == "U":
        choices = draw(st.just(()) | st.just(("a", "b c")))
    elif datatype.dtype.kind == "b":
        bounds = draw(st.none() | st.just((0, 1)))
    elif datatype.dtype.kind == "f":
        low = draw(st.floats(-1000, 999, width=16))
        bounds = draw(st.none() | st.just((low, low + 1.0)))
    else:
        low = draw(st.integers(np.iinfo(datatype.dtype).min, np.iinfo(datatype.dtype).max))
        bounds = (low, draw(st.integers(low + 1, int(np.iinfo(datatype.dtype).max) + 1)))
    return InputSpec(draw(names), datatype, draw(dims), bounds, choices=choices)


related = st.sampled_from(
    [
        "m=mask[batch,seq]",
        "m=padding:uint8[batch]",
        "n=lengths:int32[batch]<=seq:sorted",
        "i=int16[2]@1:5<seq",
        "i=int64[2]<=seq",
    ]
).map(InputSpec.parse)


@given(specs() | related)
def test_a_spec_reads_the_same_again_from_its_text(spec: InputSpec) -> None:
    assert InputSpec.parse(str(spec)) == spec


@given(specs() | related, st.integers(0, 2**32))
def test_drawn_values_have_the_shape_and_dtype_and_lie_in_the_range(spec: InputSpec, seed: int) -> None:
    array = spec.draw({"batch": 2, "seq": 7}, np.random.default_rng(seed))
    assert array.dtype.kind == spec.datatype.dtype.kind
    assert array.shape == spec.shape({"batch": 2, "seq": 7})
    if spec.bounds and array.dtype.kind in "iu" and not spec.limit:
        assert np.all((array >= spec.bounds[0]) & (array <= int(spec.bounds[1]) - 1))
