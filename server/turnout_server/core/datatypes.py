"""The protocol's tensor datatypes, and their names in numpy, ONNX and model configurations.

A tensor is a plain numpy array; its dtype determines its datatype. BYTES are object arrays of `str`, because ONNX Runtime would
store `bytes` as the text "b'...'". BF16 is ml_dtypes' bfloat16.
Sources: Open Inference Protocol, "Tensor Data"; ONNX TensorProto.DataType.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Datatype:
    """One element type, with its name in each vocabulary.

    Attributes:
        name: in the protocol, such as `FP32`.
        dtype: in numpy.
        onnx: ONNX Runtime's name for a tensor of this type, such as `tensor(float)`.
        contents: the field of InferTensorContents that holds its elements; None if the datatype is only sent raw.
        config: in model configurations, such as `TYPE_FP32`.
        element_type: its number in ONNX files.
    """

    name: str
    dtype: np.dtype
    onnx: str
    contents: str | None
    config: str
    element_type: int

    @property
    def itemsize(self) -> int:
        """Bytes of one element; 0 for BYTES, whose elements vary in length."""
        return 0 if self.dtype.kind == "O" else self.dtype.itemsize


DATATYPES = {
    name: Datatype(name, np.dtype(dtype), f"tensor({onnx})", contents, config, element_type)
    for name, dtype, onnx, contents, config, element_type in [
        ("BOOL", np.bool_, "bool", "bool_contents", "TYPE_BOOL", 9),
        ("UINT8", np.uint8, "uint8", "uint_contents", "TYPE_UINT8", 2),
        ("UINT16", np.uint16, "uint16", "uint_contents", "TYPE_UINT16", 4),
        ("UINT32", np.uint32, "uint32", "uint_contents", "TYPE_UINT32", 12),
        ("UINT64", np.uint64, "uint64", "uint64_contents", "TYPE_UINT64", 13),
        ("INT8", np.int8, "int8", "int_contents", "TYPE_INT8", 3),
        ("INT16", np.int16, "int16", "int_contents", "TYPE_INT16", 5),
        ("INT32", np.int32, "int32", "int_contents", "TYPE_INT32", 6),
        ("INT64", np.int64, "int64", "int64_contents", "TYPE_INT64", 7),
        ("FP16", np.float16, "float16", None, "TYPE_FP16", 10),
        ("FP32", np.float32, "float", "fp32_contents", "TYPE_FP32", 1),
        ("FP64", np.float64, "double", "fp64_contents", "TYPE_FP64", 11),
        ("BYTES", np.object_, "string", "bytes_contents", "TYPE_STRING", 8),
        ("BF16", ml_dtypes.bfloat16, "bfloat16", None, "TYPE_BF16", 16),
    ]
}

_BY_DTYPE = {datatype.dtype: datatype for datatype in DATATYPES.values()}
_BY_CONFIG = {datatype.config: datatype for datatype in DATATYPES.values()}
_BY_ELEMENT_TYPE = {datatype.element_type: datatype for datatype in DATATYPES.values()}
_BY_ONNX = {datatype.onnx: datatype for datatype in DATATYPES.values()}


def of_dtype(dtype: np.dtype) -> Datatype:
    """The datatype of an array's elements.

    Raises:
        KeyError: the protocol has no such datatype (for example, complex numbers).
    """
    return _BY_DTYPE[dtype]


def of_onnx(onnx: str) -> Datatype:
    """The datatype of ONNX Runtime's name `tensor(...)`.

    Raises:
        KeyError: the protocol has no such datatype (sequences, maps, complex numbers).
    """
    return _BY_ONNX[onnx]


def of_config(config: str) -> Datatype:
    """The datatype of a model configuration's name `TYPE_...`.

    Raises:
        KeyError: there is no such datatype.
    """
    return _BY_CONFIG[config]


def of_element_type(element_type: int) -> Datatype | None:
    """The datatype of a number in an ONNX file; None if the protocol has none for it."""
    return _BY_ELEMENT_TYPE.get(element_type)
