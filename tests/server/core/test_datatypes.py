import numpy as np
import pytest
from turnout_proto import inference_pb2 as pb
from turnout_proto import model_config_pb2
from turnout_server.core.datatypes import DATATYPES, Datatype, of_config, of_dtype, of_onnx

from tests.wire import CONTENTS, DTYPES

EACH = pytest.mark.parametrize("datatype", DATATYPES.values(), ids=DATATYPES)


@EACH
def test_each_datatype_is_found_by_each_of_its_names(datatype: Datatype) -> None:
    assert DATATYPES[datatype.name] is datatype
    assert of_dtype(datatype.dtype) is datatype
    assert of_onnx(datatype.onnx) is datatype
    assert of_config(datatype.config) is datatype


@EACH
def test_the_names_are_those_of_the_protocol(datatype: Datatype) -> None:
    assert datatype.dtype == DTYPES[datatype.name]
    assert datatype.contents == CONTENTS.get(datatype.name)
    assert model_config_pb2.DataType.Value(datatype.config)
    if datatype.contents:
        assert datatype.contents in pb.InferTensorContents.DESCRIPTOR.fields_by_name


def test_all_datatypes_of_the_protocol_are_listed() -> None:
    assert set(DATATYPES) == set(DTYPES)
    assert {d.config for d in DATATYPES.values()} == set(model_config_pb2.DataType.keys()) - {"TYPE_INVALID"}


def test_only_bytes_have_no_fixed_size() -> None:
    assert {d.name for d in DATATYPES.values() if d.itemsize == 0} == {"BYTES"}
    assert DATATYPES["BF16"].itemsize == 2


def test_types_that_the_protocol_lacks_are_not_found() -> None:
    with pytest.raises(KeyError):
        of_dtype(np.dtype(np.complex64))
    with pytest.raises(KeyError):
        of_onnx("seq(tensor(float))")
