"""The few functions of CUDA's runtime library that ONNX Runtime's Python interface lacks, called through ctypes.

Source: CUDA Runtime API, https://docs.nvidia.com/cuda/cuda-runtime-api/ (memory management, error handling).
"""

import ctypes
import logging
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from turnout_server.devices.device import Device

logger = logging.getLogger(__name__)

_SONAMES = ("libcudart.so.13", "libcudart.so.12")
#: cudaHostRegisterPortable: the memory counts as page-locked in every CUDA context of the process.
_PORTABLE = 1
#: cudaMemcpyKind.
_DEVICE_TO_HOST = 2
#: The share of a GPU's memory that graphs and sessions for single sizes leave free for others.
FREE_SHARE = 0.15


class GpuMemory(Protocol):
    """What knows a GPU's memory."""

    def memory(self) -> tuple[int, int]: ...


class CudaRuntime:
    """CUDA's runtime for one GPU, in the calling process.

    Args:
        number: the GPU's, as CUDA counts.

    Raises:
        OSError: the library isn't there.
    """

    def __init__(self, number: int) -> None:
        self._library = _load()
        self._number = number
        self._library.cudaHostRegister.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint]
        self._library.cudaHostUnregister.argtypes = [ctypes.c_void_p]
        self._library.cudaMemcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def lock_pages(self, address: int, size: int) -> bool:
        """Page-locks host memory, so that the GPU copies it without the CPU; False if that isn't possible.

        38.5 MB were copied in 0.72 ms when locked and in 6.1 ms when not; locking took 2.6 ms (docs/results/gpu).
        """
        self._library.cudaSetDevice(self._number)
        return self._succeeded("cudaHostRegister", self._library.cudaHostRegister(address, size, _PORTABLE))

    def unlock_pages(self, address: int) -> None:
        """Undoes `lock_pages`. Must come before the memory is unmapped, or its address can't be locked again."""
        self._succeeded("cudaHostUnregister", self._library.cudaHostUnregister(address))

    def copy_to_host(self, target: int, source: int, size: int) -> bool:
        """Copies device memory to host memory; returns once it is there."""
        return self._succeeded("cudaMemcpy", self._library.cudaMemcpy(target, source, size, _DEVICE_TO_HOST))

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the GPU's memory."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._library.cudaSetDevice(self._number)
        self._succeeded("cudaMemGetInfo", self._library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)))
        return free.value, total.value

    def _succeeded(self, name: str, status: int) -> bool:
        if status:
            # CUDA keeps the error for the thread's next query, and ONNX Runtime would report it as that of its own call.
            self._library.cudaGetLastError()
            logger.warning("%s failed with CUDA error %d", name, status)
        return status == 0


def gpu_of(device: "Device") -> CudaRuntime | None:
    """CUDA's own functions for the device's GPU; None where it has none, or the library can't be found."""
    if not device.is_cuda:
        return None
    try:
        return CudaRuntime(int(device.provider_options.get("device_id", "0")))
    except OSError:
        return None


def shortage_of(gpu: GpuMemory | None) -> str:
    """Why there isn't memory for one more size; empty if there is, or nobody knows."""
    if gpu is None:
        return ""
    free, total = gpu.memory()
    return f"{free / 2**20:.0f} MiB of GPU memory are left" if free < FREE_SHARE * total else ""


def _load() -> Any:
    for name in _SONAMES:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            reason = error
    raise reason
