"""ONNX Runtime's sessions.

ONNX Runtime answers a request for a device that it can't have by running on the CPU without a word. So a session counts only
once it says itself that it has the provider it was made for.
"""

import ctypes
import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnxruntime

from turnout_server.core.datatypes import of_dtype, of_onnx
from turnout_server.core.errors import FailedPrecondition, Overloaded
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.core.signatures import TensorSpec
from turnout_server.devices import cuda_libraries, openvino
from turnout_server.devices.ort_errors import first_line, lacks_memory, memory_of, run_error
from turnout_server.devices.plugins import hardware_of
from turnout_server.devices.run_limit import limit_s, terminable
from turnout_server.scheduling.batching import collate

if TYPE_CHECKING:
    from turnout_server.devices.device import Device

logger = logging.getLogger(__name__)

#: The providers whose libraries may have come as wheels.
NEED_CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
#: The option of a run that says which CUDA graph it is; -1 for none.
GRAPH_ID = "gpu_graph_id"
#: The option of a run that names the arenas which then give back what isn't in use.
SHRINKAGE = "memory.enable_memory_arena_shrinkage"
#: Options of providers by which every run would be one.
_GRAPHS = ("enable_cuda_graph", "trt_cuda_graph_enable")
_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}


#: Runs a staged batch; returns an array for each wanted output, without padding, valid until the batch is unstaged.
Run = Callable[[], list[np.ndarray]]


class Session(Protocol):
    """A model version on one device.

    Attributes:
        placement: how many nodes of the graph each execution provider runs.
        buckets: the numbers of rows that runs are padded to, ascending; empty if runs aren't padded.
        notes: what is worth knowing about how it was opened, for people.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def placement(self) -> Mapping[str, int]: ...
    @property
    def buckets(self) -> Sequence[int]: ...
    @property
    def notes(self) -> Sequence[str]: ...

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Runs once.

        Args:
            inputs: an array for every input, in its datatype.
            outputs: the names of the outputs to compute.

        Returns:
            An array for each of `outputs`, in that order.

        Raises:
            ServingError: what went wrong, in words for the caller.
        """
        ...

    def stage(self, requests: Sequence[Mapping[str, np.ndarray]], outputs: Sequence[str]) -> AbstractContextManager[Run]:
        """Joins the inputs of requests along axis 0, in the memory that the session reads, and gives what runs them.

        Args:
            requests: for each, an array for every input; several only if rows are independent.
            outputs: the names of the outputs to compute.

        Raises:
            ServingError: as `run`. So does the run.
        """
        ...

    def trim(self) -> None:
        """Has the next run free memory that it doesn't need, if the device can; larger runs allocate it again.

        Raises:
            ServingError: the device is gone.
        """
        ...


def staged_in_place(
    session: Session, requests: Sequence[Mapping[str, np.ndarray]], outputs: Sequence[str]
) -> AbstractContextManager[Run]:
    """Session.stage of a session that reads any memory."""
    return nullcontext(partial(session.run, collate(requests), outputs))


class OnnxSession:
    """An ONNX Runtime session that really is on the device it names.

    Attributes:
        placement: how many of the graph's nodes each provider runs.
        device: where it runs.
    """

    buckets: Sequence[int] = ()
    notes: Sequence[str] = ()

    def __init__(
        self, model: Path | bytes, device: "Device", options: RuntimeOptions | None = None, *, graphs: bool = False
    ) -> None:
        """Loads.

        Args:
            model: an ONNX file, or its bytes.
            graphs: whether some of its runs are to be captured as CUDA graphs; `run` never captures or replays one.

        Raises:
            FailedPrecondition: the model or the device is unusable; the text says why.
            Overloaded: the device doesn't have the memory for it.
        """
        self.device = device
        self._session = _create(str(model) if isinstance(model, Path) else model, device, options or RuntimeOptions(), graphs)
        shapes = options.shapes if options else {}
        self.inputs = tuple(_spec(argument, shapes) for argument in self._session.get_inputs())
        self.outputs = tuple(_spec(argument, shapes) for argument in self._session.get_outputs())
        if (refusal := openvino.refusal(device, (*self.inputs, *self.outputs))) is not None:
            raise FailedPrecondition(refusal)
        self.placement: Counter[str] = Counter()
        for subgraph in self._session.get_provider_graph_assignment_info():
            self.placement[subgraph.ep_name] += len(subgraph.get_nodes())
        self._usual = _run_options({GRAPH_ID: "-1"}) if graphs else None
        self._options = self._usual
        self._arenas = _arenas(device, self._session.get_providers(), options or RuntimeOptions())
        self._by_value = any(spec.datatype.name == "BF16" for spec in (*self.inputs, *self.outputs))

    @property
    def runtime(self) -> Any:
        """ONNX Runtime's own session, for those who bind buffers to it."""
        return self._session

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """See Session.run."""
        options = self._next_options()
        try:
            if self._by_value:
                return self._run_by_value(inputs, outputs, options)
            result: list[np.ndarray] = self._session.run(outputs, inputs, options)
        except Exception as error:
            raise run_error(error, self.device) from error
        return result

    def stage(self, requests: Sequence[Mapping[str, np.ndarray]], outputs: Sequence[str]) -> AbstractContextManager[Run]:
        """See Session.stage."""
        return staged_in_place(self, requests, outputs)

    def run_bound(self, binding: Any) -> None:
        """Runs on tensors that are bound to the session. Raises what ONNX Runtime raises."""
        self._session.run_with_iobinding(binding, self._next_options())

    def trim(self) -> None:
        """See Session.trim."""
        if self._arenas:
            self._options = _run_options({SHRINKAGE: self._arenas})

    def _next_options(self) -> Any:
        """The options of the next run."""
        if (at_s := limit_s()) is not None:
            return terminable(at_s)
        options, self._options = self._options, self._usual
        return options

    def _run_by_value(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], options: Any) -> list[np.ndarray]:
        """The long way round for BF16, which numpy and so ONNX Runtime's plain `run` don't know."""
        values = {name: _to_value(array) for name, array in inputs.items()}
        return [from_value(value) for value in self._session.run_with_ort_values(outputs, values, options)]


def _run_options(entries: Mapping[str, str]) -> Any:
    options = onnxruntime.RunOptions()
    for key, value in entries.items():
        options.add_run_config_entry(key, value)
    return options


def _arenas(device: "Device", providers: Sequence[str], chosen: RuntimeOptions) -> str:
    """The arenas of a session that can free what they don't use, as ONNX Runtime names them; empty for none."""
    if device.is_cuda:
        return f"gpu:{device.provider_options.get('device_id', '0')}"
    return "cpu:0" if list(providers) == ["CPUExecutionProvider"] and _has_arena(device, chosen) else ""


def _has_arena(device: "Device", chosen: RuntimeOptions) -> bool:
    """Whether a session keeps the host's memory from run to run.

    An arena keeps what it once had, and after a request that didn't fit it asks for nearly all that is left: under a limit it
    would have others refused that fit.
    """
    return chosen.memory_arena and not (device.kind == "cpu" and device.memory_limit_mb)


def _create(model: str | bytes, device: "Device", chosen: RuntimeOptions, graphs: bool) -> Any:
    if device.library == "" and device.provider not in built_in_providers():
        raise FailedPrecondition(f"the installed ONNX Runtime has no {device.provider}; it has {list(built_in_providers())}")
    provider_options = {**device.provider_options, **(chosen.cuda if device.is_cuda else {})}
    for option in _GRAPHS:
        # A graph reads the addresses that it was captured with, and a plain run brings its own.
        if provider_options.get(option, "0").lower() not in ("0", "false"):
            raise FailedPrecondition(f"'{option}' would give wrong answers here; remove it, or see the setting cuda_graph_rows")
    if device.is_cuda and graphs:
        provider_options["enable_cuda_graph"] = "1"
    if openvino.is_plugin(device) and openvino.OPTION in provider_options and chosen.intra_op_threads:
        provider_options = openvino.with_threads(provider_options, chosen.intra_op_threads)
    options = _session_options(device, chosen)
    providers = _providers(device, provider_options, options)
    try:
        with _kept_to(device.cpus):
            session = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=False)
    except Exception as error:
        text = first_line(error)
        if isinstance(model, str):
            text = text.replace(model, Path(model).name)
            if lacks_memory(error):
                size_mb = Path(model).stat().st_size / 2**20
                raise Overloaded(f"a model of {size_mb:.1f} MiB does not fit {memory_of(device)}: {text}") from error
        raise FailedPrecondition(text) from error
    session.disable_fallback()
    if session.get_providers()[0] != device.provider:
        libraries = "the CUDA 13 and cuDNN 9 libraries" if device.is_cuda else "the libraries that it needs"
        why = _unloadable(device.provider) or f"check that the driver and {libraries} can be loaded"
        raise FailedPrecondition(
            f"{device.provider} could not be set up, and ONNX Runtime would have used the CPU instead: {why}"
        )
    return session


def _unloadable(provider: str) -> str:
    """What the linker says of a provider's library, such as the file that it misses; ONNX Runtime keeps that to itself."""
    name = provider.removesuffix("ExecutionProvider").lower()
    library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"
    try:
        if library.exists():
            ctypes.CDLL(str(library))
    except OSError as error:
        if "undefined symbol" not in str(error):  # of ONNX Runtime's own, which has loaded what offers it
            return str(error)
    return ""


@contextmanager
def _kept_to(cpus: Collection[int]) -> Iterator[None]:
    """The threads that are started in here keep to these cores, as the one that starts them does meanwhile; to any if empty.

    `session.intra_op_thread_affinities` would leave out the inter-op threads, and each thread obeys it only once it runs.
    """
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    with suppress(OSError):  # cores that the system has taken away since: the device's executor says so
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _providers(device: "Device", provider_options: dict[str, str], options: Any) -> list[tuple[str, dict[str, str]]]:
    """The provider that a session is to be told of; one that is plugged in goes into its `options` instead."""
    if device.library:
        options.add_provider_for_devices([hardware_of(device)], provider_options)
        return []
    if device.provider in NEED_CUDA:
        cuda_libraries.preload(int(str(getattr(onnxruntime, "cuda_version", "") or "13").partition(".")[0]))
    return [(device.provider, provider_options)]


def _session_options(device: "Device", chosen: RuntimeOptions) -> Any:
    _quiet()
    options = onnxruntime.SessionOptions()
    threads = device.threads if chosen.intra_op_threads is None else chosen.intra_op_threads
    # Left to itself, ONNX Runtime pins a thread to every core of the machine, whichever its process is kept to.
    options.intra_op_num_threads = threads or len(device.cpus)
    options.inter_op_num_threads = chosen.inter_op_threads or 0
    options.execution_mode = getattr(onnxruntime.ExecutionMode, "ORT_PARALLEL" if chosen.parallel else "ORT_SEQUENTIAL")
    options.enable_cpu_mem_arena = _has_arena(device, chosen)
    options.enable_mem_pattern = chosen.memory_pattern
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[chosen.optimization_level])
    options.log_severity_level = 4  # what goes wrong is raised or checked afterwards
    # Threads that spin while they wait take the CPU from the front end.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


@cache
def _quiet() -> None:
    """Silences ONNX Runtime's own log of this process, which writes a warning for every CUDA session, for example."""
    onnxruntime.set_default_logger_severity(4)  # what goes wrong is raised, or checked afterwards


def runtime_version() -> str:
    """ONNX Runtime's."""
    return str(onnxruntime.__version__)


def built_in_providers() -> tuple[str, ...]:
    """What ONNX Runtime was compiled with, which doesn't say that any of it works."""
    return tuple(onnxruntime.get_available_providers())


def _spec(argument: Any, shapes: Mapping[str, tuple[int, ...]]) -> TensorSpec:
    try:
        datatype = of_onnx(argument.type)
    except KeyError:
        raise FailedPrecondition(
            f"'{argument.name}' is a {argument.type}, which the protocol cannot carry{_way_out(argument.type)}"
        ) from None
    shape = tuple(d if isinstance(d, int) else -1 for d in argument.shape)
    return TensorSpec(argument.name, datatype, shape or shapes.get(argument.name, ()))


def _way_out(onnx_type: str) -> str:
    """What to do about a type that can't be served; empty if there is nothing."""
    if "map(" in onnx_type:  # as scikit-learn's classifiers get, unless their converter is told not to
        return "; it comes from ZipMap: convert the model again with options={'zipmap': False}"
    if onnx_type.startswith(("seq(", "optional(")):
        return "; export the model with tensors as its inputs and outputs"
    return ""


def _to_value(array: np.ndarray) -> Any:
    if of_dtype(array.dtype).name != "BF16":
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    bits = np.asarray(array, order="C").view(np.uint16)  # ascontiguousarray would make a scalar an array of one
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, 16)  # TensorProto.BFLOAT16


def from_value(value: Any) -> np.ndarray:
    """The array that ONNX Runtime holds as a value of its own."""
    datatype = of_onnx(value.data_type())
    if datatype.name != "BF16":
        array: np.ndarray = value.numpy()
        return array
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, datatype.dtype).reshape(value.shape())
