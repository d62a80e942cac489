"""What the errors of ONNX Runtime mean to the caller of a run or a load."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from onnxruntime.capi import onnxruntime_pybind11_state as native

from turnout_server.core.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    Overloaded,
    ServingError,
    internal_error,
)
from turnout_server.devices.run_limit import ENDED

if TYPE_CHECKING:
    from turnout_server.devices.device import Device

logger = logging.getLogger(__name__)

_trying: ContextVar[bool] = ContextVar("trying", default=False)

#: Lower-case parts of the texts with which ONNX Runtime, CUDA and its libraries report a lack of memory.
_NO_MEMORY = (
    "bad_alloc",
    "failed to allocate memory",
    "smaller than requested bytes",
    "cannot allocate memory",
    "out of memory",
    "alloc_failed",
    "allocation_failed",
    "the resource allocation failed",
)

#: Lower-case parts of the texts with which operators refuse the values of a request, although under the code of a failure.
_BAD_VALUES = (
    "division by zero",
    "modulo by zero",
    "integer overflow",
    "must be >= 0",
    "must not be negative",
    "cannot be less than -1",
    "cannot be reshaped to the requested shape",
    "should not be greater than specified axis dim",
    "attempting to broadcast an axis",
)

#: Texts of CUDA errors after which, by its documentation, a process must be started anew (driver_types.h, CUDA 13.0), of memory
#: and links beyond repair, and of libraries that met such an error first.
_END_DEVICE = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "invalid program counter",
    "global/shared address space",
    "hardware stack error",
    "device-side assert",
    "unspecified launch failure",
    "the launch timed out",
    "tensor memory not completely freed",
    "Invalid access of peer GPU memory",
    "MPS client has been terminated",
    "external entity outside of CUDA",
    "context is destroyed",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "driver shutting down",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION",
    "CUFFT_EXEC_FAILED",
)
#: Texts of errors that may mean the same, or something about one model: a test run tells.
_MAY_END_DEVICE = (
    "unknown error",
    "busy or unavailable",
    "no CUDA-capable device",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "previous error during capture",
    "CUDA failure",
    "CUDA error",
)


def ends_device(text: str) -> bool:
    """Whether nothing can run in the process any more in which this error came up."""
    return any(part in text for part in _END_DEVICE)


def may_end_device(text: str) -> bool:
    """Whether an error makes it worth finding out if anything can still run in its process."""
    return any(part in text for part in _MAY_END_DEVICE)


def refuses_values(text: str) -> bool:
    """Whether an operator failed because of the values that a client sent, such as a divisor of 0 or a negative size."""
    lower = text.lower()
    return any(words in lower for words in _BAD_VALUES)


def first_line(error: BaseException) -> str:
    """The first line of ONNX Runtime's own text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that there isn't enough memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)


def memory_of(device: "Device") -> str:
    """Words for a device's memory, with its limit."""
    limit = f", which may take {device.memory_limit_mb} MiB" if device.memory_limit_mb else ""
    return f"into the memory of device '{device.name}'{limit}"


@contextmanager
def trying() -> Iterator[None]:
    """Runs of this thread in here may fail, and their errors aren't logged as such."""
    token = _trying.set(True)
    try:
        yield
    finally:
        _trying.reset(token)


def run_error(error: Exception, device: "Device") -> ServingError:
    """The error that the caller of a failed run gets."""
    text = first_line(error)
    if ENDED in str(error):
        return DeadlineExceeded("Deadline Exceeded: the run was ended at its deadline, or after far longer than usual")
    if isinstance(error, UnicodeDecodeError):
        return FailedPrecondition("an output of the model has a text that is not UTF-8")
    if isinstance(error, native.InvalidArgument) or refuses_values(text):
        return InvalidRequest(f"the model refused these inputs: {text}")
    if lacks_memory(error):
        return Overloaded(f"this request does not fit {memory_of(device)}: {text}")
    internal = internal_error()
    internal.cause = text
    logger.log(logging.DEBUG if _trying.get() else logging.ERROR, "a run failed: %s (%s)", error, internal)
    return internal
