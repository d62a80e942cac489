"""Builds requests from a model's metadata, and reads answers as arrays."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from turnout_proto import inference_pb2 as pb

from turnout_loadtests.errors import LoadTestError

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Shapes = Mapping[str, tuple[int, ...]]
TensorMetadata = pb.ModelMetadataResponse.TensorMetadata

#: The protocol's datatypes. BYTES are object arrays of `bytes`.
DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "BOOL": np.bool_, "BYTES": np.object_, "BF16": ml_dtypes.bfloat16,
        "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
        "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
        "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    }.items()
}  # fmt: skip
POOL_BYTES = 32 << 20
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def request_pool(
    metadata: pb.ModelMetadataResponse,
    *,
    device: str,
    batch: int,
    shapes: Shapes,
    inputs: Arrays | None = None,
    count: int = 16,
    seed: int = 0,
) -> list[pb.ModelInferRequest]:
    """Requests of `batch` rows each, all different, so that no cache on the way can answer them.

    Args:
        shapes: sizes, without the batch axis, of inputs that have other free dimensions.
        inputs: rows to take in turn, by input name, instead of random ones.
        count: the number of requests; fewer, but at least two, if they would take more than `POOL_BYTES`.
    """
    draws = random_draws(metadata, batch, shapes, seed) if inputs is None else row_groups(metadata, inputs, batch)
    first = infer_request(metadata.name, next(draws), device or None)
    count = min(count, max(2, POOL_BYTES // max(1, first.ByteSize())))
    return [first, *(infer_request(metadata.name, tensors, device or None) for tensors in islice(draws, count - 1))]


def infer_request(model: str, inputs: Arrays, device: str | None = None) -> pb.ModelInferRequest:
    """One request, its tensors as raw bytes; without a `device` parameter if `device` is None."""
    return pb.ModelInferRequest(
        model_name=model,
        parameters={key: pb.InferParameter(string_param=value) for key, value in asked_of(device).items()},
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name=name, datatype=NAMES[array.dtype], shape=array.shape)
            for name, array in inputs.items()
        ],
        raw_input_contents=[_raw_bytes(array) for array in inputs.values()],
    )


def split_precision(device: str) -> tuple[str, str]:
    """Device and precision of a name such as `cpu+int8`, which asks for one of several files; the latter is mostly empty."""
    name, _, precision = device.partition("+")
    return name, precision


def asked_of(device: str | None) -> dict[str, str]:
    """The request parameters that such a name stands for; none for an empty one."""
    name, precision = split_precision(device or "")
    return {key: value for key, value in (("device", name), ("precision", precision)) if value}


def outputs_of(response: pb.ModelInferResponse) -> dict[str, Array]:
    """The answer's tensors by name. They must have been sent as raw bytes, and be of a datatype of fixed size."""
    return {
        tensor.name: np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tensor.shape)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def random_draws(metadata: pb.ModelMetadataResponse, batch: int, shapes: Shapes, seed: int) -> Iterator[dict[str, Array]]:
    """Yields random inputs without end, the same for the same seed: floats in 0..1, integers 0 or 1, short texts."""
    generator = np.random.default_rng(seed)
    sizes = {tensor.name: full_shape(tensor, batch, shapes) for tensor in metadata.inputs}
    while True:
        yield {tensor.name: _random(tensor.datatype, sizes[tensor.name], generator) for tensor in metadata.inputs}


def full_shape(tensor: TensorMetadata, batch: int, shapes: Shapes) -> tuple[int, ...]:
    """The input's shape with `batch` rows and a size for every free dimension.

    Raises:
        LoadTestError: a dimension has no size, or the given sizes contradict the model's.
    """
    declared = tuple(tensor.shape)
    rows, rest = ((batch,), declared[1:]) if declared[:1] == (-1,) else ((), declared)
    if not rows and batch != 1:
        raise LoadTestError(
            f"input '{tensor.name}' has the fixed shape {list(declared)}, so --batch {batch} is impossible; use --batch 1"
        )
    wanted = shapes.get(tensor.name, rest)
    if -1 in wanted:
        raise LoadTestError(
            f"input '{tensor.name}' has the free dimensions {list(rest)} (batch axis left out); "
            f"give sizes, such as --shape {tensor.name}:{','.join(str(abs(size)) for size in rest)}"
        )
    if len(wanted) != len(rest) or any(size not in {-1, given} for size, given in zip(rest, wanted, strict=True)):
        raise LoadTestError(f"--shape {tensor.name}:{','.join(map(str, wanted))} doesn't fit the model's {list(rest)}")
    return rows + wanted


def row_groups(metadata: pb.ModelMetadataResponse, inputs: Arrays, batch: int) -> Iterator[dict[str, Array]]:
    """Yields groups of `batch` consecutive rows without end, as the model's datatypes; starts over after the last row."""
    names = {tensor.name: DTYPES[tensor.datatype] for tensor in metadata.inputs}
    if names.keys() != inputs.keys():
        raise LoadTestError(f"the arrays are {sorted(inputs)}, but model '{metadata.name}' takes {sorted(names)}")
    start, rows = 0, min(len(array) for array in inputs.values())
    while True:
        chosen = np.arange(start, start + batch) % rows
        yield {name: inputs[name][chosen].astype(dtype) for name, dtype in names.items()}
        start += batch


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """The name and sizes in a text such as `tokens:128` or `image:3,224,224`."""
    name, _, sizes = text.rpartition(":")
    if not name or not all(size.isdigit() and int(size) for size in sizes.split(",")):
        raise LoadTestError(f"--shape {text!r} isn't NAME:SIZE,SIZE,... such as image:3,224,224")
    return name, tuple(int(size) for size in sizes.split(","))


def read_inputs(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by input name, each (rows, ...)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, BadZipFile, TypeError) as error:
        raise LoadTestError(f"{path}: not a readable .npz of plain arrays ({error})") from error


def golden_inputs(repository: Path, model: str) -> dict[str, Array]:
    """The inputs that the exporter published with the newest version of a model, each (rows, ...).

    Of several sizes of free dimensions, those of the first point count.

    Raises:
        LoadTestError: the repository has no golden file for the model.
    """
    files = list((repository / model).glob("*/golden.npz")) if str(repository) else []
    if not files:
        raise LoadTestError(
            f"there is no golden.npz of model '{model}' in the repository '{repository}'; name the repository with "
            "--model-repository, or send --payload random"
        )
    newest = max(files, key=lambda file: (file.parent.name.isdecimal(), file.parent.name.zfill(20)))
    arrays = read_inputs(newest)
    points: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        point, _, name = key.partition("/in/")
        if name:
            points.setdefault(point, {})[name] = array
    if not points:
        raise LoadTestError(f"{newest} has no arrays called <point>/in/<input>")
    first = next(iter(points.values()))
    alike = [point for point in points.values() if all(_same_rows(point[name], array) for name, array in first.items())]
    return {name: np.concatenate([point[name] for point in alike]) for name in first}


def _same_rows(one: Array, other: Array) -> bool:
    return one.ndim == other.ndim > 0 and one.shape[1:] == other.shape[1:]


def _random(datatype: str, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    dtype = DTYPES[datatype]
    if dtype.kind == "O":
        texts = [b"row %d" % number for number in generator.integers(1_000_000, size=int(np.prod(shape)))]
        return np.array(texts, dtype=object).reshape(shape)
    if dtype.kind in "biu":
        return generator.integers(0, 2, shape).astype(dtype)
    return generator.random(shape, np.float32).astype(dtype)


def _raw_bytes(array: Array) -> bytes:
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array).tobytes()
    return b"".join(len(element).to_bytes(4, "little") + element for element in array.ravel())
