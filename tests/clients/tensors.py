"""Inputs for tritonclient; its synchronous and asyncio clients use the same classes."""

from collections.abc import Mapping

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

COUNT = np.arange(16, dtype=np.int32)[None]
ONES = np.ones((1, 16), np.int32)
#: Inputs for the model `simple`.
PAIR = {"INPUT0": COUNT, "INPUT1": ONES}


def inputs(arrays: Mapping[str, np.ndarray]) -> list[triton.InferInput]:
    infer_inputs = []
    for name, array in arrays.items():
        infer_inputs.append(triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        infer_inputs[-1].set_data_from_numpy(array)
    return infer_inputs
