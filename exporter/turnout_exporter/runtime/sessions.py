"""Sessions of ONNX Runtime as the server opens them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from turnout_exporter import children
from turnout_exporter.errors import Refused
from turnout_exporter.spec.reference import Arrays

CPU = "CPUExecutionProvider"
_BFLOAT16 = "its CPU kernels don't compute in bfloat16, and forward does somewhere: let it compute in float32"


def open_session(path: Path, provider: str = CPU, *, optimized: bool = True) -> ort.InferenceSession:
    """A session of a file on one provider.

    Raises:
        Refused: the file can't be loaded, or the provider isn't the one that runs it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = children.THREADS
    options.log_severity_level = 4  # what matters becomes an exception
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if provider != CPU and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    try:
        session = ort.InferenceSession(path, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's errors share no root
        reason = _BFLOAT16 if "NOT_IMPLEMENTED" in str(error) and _computes_in_bfloat16(path) else explain(error)
        raise Refused(f"ONNX Runtime can't load {path.name}: {reason}") from error
    if session.get_providers()[0] != provider:
        raise Refused(f"{provider} doesn't work on this machine: ONNX Runtime gave {session.get_providers()[0]} instead")
    return session


def run_session(session: ort.InferenceSession, inputs: Arrays, names: Sequence[str] | None = None) -> Arrays:
    """The outputs of one run by name; text as numpy's `str_`."""
    names = list(names or (output.name for output in session.get_outputs()))
    answers = session.run(names, {name: _as_ort(array) for name, array in inputs.items()})
    return {name: _as_numpy(answer) for name, answer in zip(names, answers, strict=True)}


def explain(error: Exception) -> str:
    """ONNX Runtime's message, and the fix where one is known."""
    text = str(error).strip()
    if "bfloat16" in text:
        return _BFLOAT16
    if "locale" in text:
        return (
            f"the text operators need the locale en_US.UTF-8, which this machine lacks: install it (locale-gen en_US.UTF-8), "
            f"or convert the model with locale='C' ({text})"
        )
    return text


def _computes_in_bfloat16(path: Path) -> bool:
    model = onnx.load(path, load_external_data=False)
    casts = (attribute.i for node in model.graph.node if node.op_type == "Cast" for attribute in node.attribute)
    types = (tensor.data_type for tensor in model.graph.initializer)
    return onnx.TensorProto.BFLOAT16 in {*casts, *types}


def _as_ort(array: np.ndarray) -> np.ndarray:
    return array.astype(np.object_) if array.dtype.kind == "U" else np.ascontiguousarray(array)


def _as_numpy(answer: np.ndarray) -> np.ndarray:
    return answer.astype(np.str_) if answer.dtype.kind == "O" else answer
