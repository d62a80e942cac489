"""The element types of inputs and outputs that a published model may have, with their names in each library.

bfloat16 is missing: numpy doesn't have it, so `golden.npz` couldn't contain it, and ONNX Runtime's CPU kernels refuse it.
"""

from dataclasses import dataclass

import numpy as np

from turnout_exporter.errors import ConversionError


@dataclass(frozen=True)
class Datatype:
    """One element type.

    Attributes:
        name: the inference protocol's name, such as `FP32`.
        dtype: numpy's dtype; PyTorch's has the same name. Text is `str_` of any width, which needs no pickle.
        onnx: ONNX Runtime's name of a tensor of it, such as `tensor(float)`.
    """

    name: str
    dtype: np.dtype
    onnx: str

    @property
    def spelling(self) -> str:
        """The name in `--input`, such as `float32`."""
        return "string" if self.dtype.kind == "U" else self.dtype.name

    @property
    def config_name(self) -> str:
        """The name in `config.pbtxt`, such as `TYPE_FP32`."""
        return "TYPE_STRING" if self.dtype.kind == "U" else f"TYPE_{self.name}"


DATATYPES = tuple(
    Datatype(name, np.dtype(dtype), f"tensor({onnx})")
    for name, dtype, onnx in [
        ("BOOL", np.bool_, "bool"),
        ("UINT8", np.uint8, "uint8"),
        ("INT8", np.int8, "int8"),
        ("INT16", np.int16, "int16"),
        ("INT32", np.int32, "int32"),
        ("INT64", np.int64, "int64"),
        ("FP16", np.float16, "float16"),
        ("FP32", np.float32, "float"),
        ("FP64", np.float64, "double"),
        ("BYTES", np.str_, "string"),
    ]
)

BY_SPELLING = {datatype.spelling: datatype for datatype in DATATYPES}
BY_NAME = {datatype.name: datatype for datatype in DATATYPES}
BY_ONNX = {datatype.onnx: datatype for datatype in DATATYPES}


def of_array(array: np.ndarray) -> Datatype:
    """The datatype of an array's elements.

    Raises:
        ConversionError: the protocol has no such type (complex numbers, for example).
    """
    spelling = "string" if array.dtype.kind == "U" else array.dtype.name
    if spelling not in BY_SPELLING:
        raise ConversionError(f"a tensor of {array.dtype.name} can't be served; use one of {', '.join(BY_SPELLING)}")
    return BY_SPELLING[spelling]
