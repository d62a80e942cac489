"""The places to run: which are declared, which are found, and what each is called."""

from dataclasses import dataclass, field

from turnout_server.core.device_names import GPU_KINDS
from turnout_server.devices.host import usable_cpus

#: The execution provider of each kind of device, where none is declared.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
#: Intra-op threads of a session on a GPU, which only compute the few nodes that stay on the CPU.
GPU_THREADS = 2
#: Runs in progress on a GPU: while one computes, the next one's tensors are copied. Two threads on one session carried 4,320
#: rows/s of ResNet-50 where one carried 3,140 (docs/results/gpu).
GPU_INSTANCES = 2
#: Those that are told by the option `device_id` which GPU to use.
_GPU_PROVIDERS = tuple(PROVIDERS[kind] for kind in GPU_KINDS)


@dataclass(frozen=True)
class Device:
    """A named place to run: an ONNX Runtime execution provider with its options.

    Attributes:
        name: `cpu`, `cuda:0`, `cpu:slow`.
        kind: the part before the colon.
        provider: the execution provider's name in ONNX Runtime.
        library: the file that the provider is plugged in from; empty for one that ONNX Runtime was built with.
        hardware: `cpu`, `gpu` or `npu`, where a plug-in provider offers more than one sort; empty for any.
        threads: intra-op threads; 0 leaves it to ONNX Runtime.
        instances: how many runs may be in progress at once.
        per_core: whether it may have a run on each of its threads instead, where that gets more done.
        cpus: the cores that its threads may use; empty for all of the process's.
        memory_limit_mb: how much memory it may take, in 2**20 bytes; on a GPU, each model's weights, and separately each
            model's tensors; 0 for no limit.
        price_per_hour: what an hour of it costs; None if not known.
        idle_w, busy_w: watts it draws when idle and when busy; None if not known.
        graph_rows: the numbers of rows that get a CUDA graph of each model, ascending; None leaves it to what pays.
        isolated: whether its sessions live in a process of their own.
        guarded: whether those of hazardous models do (`hazards`), and the others in the server's.
        watchdog_s: a run on such a device that takes longer, and much longer than others of its shapes, counts as hung.
    """

    name: str
    kind: str
    provider: str
    provider_options: dict[str, str] = field(default_factory=dict)
    library: str = ""
    hardware: str = ""
    threads: int = 0
    instances: int = 1
    per_core: bool = False
    cpus: tuple[int, ...] = ()
    memory_limit_mb: int = 0
    price_per_hour: float | None = None
    idle_w: float | None = None
    busy_w: float | None = None
    graph_rows: tuple[int, ...] | None = None
    isolated: bool = False
    guarded: bool = False
    watchdog_s: float = 10.0

    @property
    def extra_w(self) -> float | None:
        """Watts that it draws when busy beyond what it draws when idle; None if not known."""
        return None if self.busy_w is None or self.idle_w is None else self.busy_w - self.idle_w

    @property
    def is_cuda(self) -> bool:
        """Whether ONNX Runtime's own CUDA provider runs it, whose options and libraries no other has."""
        return self.provider == PROVIDERS["cuda"] and not self.library


def cpu() -> Device:
    """The CPU as it is where nothing is declared."""
    return Device("cpu", "cpu", PROVIDERS["cpu"], threads=usable_cpus(), per_core=True, guarded=True)


def cuda(number: int, memory_limit_mb: int = 0, *, tf32: bool = True) -> Device:
    """A GPU, in a process of its own, because a CUDA error that sticks ends its process."""
    return Device(
        f"cuda:{number}",
        "cuda",
        PROVIDERS["cuda"],
        cuda_options(number, memory_limit_mb, tf32=tf32),
        threads=GPU_THREADS,
        instances=GPU_INSTANCES,
        isolated=True,
    )


def default_options(provider: str, number: int, memory_limit_mb: int = 0, *, tf32: bool = True) -> dict[str, str]:
    """What a provider of ONNX Runtime's own is told, so that it uses the device with this number."""
    if provider == PROVIDERS["cuda"]:
        return cuda_options(number, memory_limit_mb, tf32=tf32)
    return {"device_id": str(number)} if provider in _GPU_PROVIDERS else {}


def cuda_options(number: int, memory_limit_mb: int = 0, *, tf32: bool = True) -> dict[str, str]:
    """The CUDA provider's options for a GPU.

    cuDNN's heuristic picks the algorithm of each convolution; on an H200 an exhaustive search found nothing faster, and takes
    longer for every new shape. The arena grows by what is asked for, where its default doubles it.
    """
    options = {
        "device_id": str(number),
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    if memory_limit_mb:
        options["gpu_mem_limit"] = str(memory_limit_mb * 2**20)
    if not tf32:
        options["use_tf32"] = "0"
    return options
