"""Inputs as tritonclient takes them; the synchronous and the asyncio client share the classes."""

from collections.abc import Mapping

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

COUNT = np.arange(16, dtype=np.int32)[None]
ONES = np.ones((1, 16), np.int32)
#: Inputs of the model `simple`.
PAIR = {"INPUT0": COUNT, "INPUT1": ONES}


def inputs(arrays: Mapping[str, np.ndarray]) -> list[triton.InferInput]:
    made = []
    for name, array in arrays.items():
        made.append(triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        made[-1].set_data_from_numpy(array)
    return made
