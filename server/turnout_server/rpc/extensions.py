"""The RPCs of the shared-memory, trace and logging extensions, one method each."""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS

from turnout_server.core.errors import InvalidRequest, NotFound, Unsupported
from turnout_server.core.suggestions import did_you_mean
from turnout_server.models.repository import Repository
from turnout_server.observability.log_settings import LogSettings
from turnout_server.rpc.handlers import answering
from turnout_server.serving.tracing import Tracer
from turnout_server.transport.base import UnaryHandler
from turnout_server.wire.shared_memory import SharedMemory

NO_SHARED_MEMORY = "Client shared memory is disabled. Start the server with '--allow-client-shm' to enable."
NO_CUDA = "CUDA shared memory is not supported; send tensors in the message, or use system shared memory"


class ExtensionService:
    """Answers the RPCs about clients' shared memory, traces and the log.

    Args:
        shared_memory: None if shared memory is disabled.
        models: the models, whose names may be traced.
    """

    def __init__(self, shared_memory: SharedMemory | None, tracer: Tracer, log: LogSettings, models: Repository) -> None:
        self._shared_memory = shared_memory
        self._models = models
        self._tracer = tracer
        self._log = log

    def unary(self) -> dict[str, UnaryHandler]:
        """Handlers by path."""
        functions: dict[str, Callable[[Any], Message]] = {
            "SystemSharedMemoryStatus": self.system_shared_memory_status,
            "SystemSharedMemoryRegister": self.system_shared_memory_register,
            "SystemSharedMemoryUnregister": self.system_shared_memory_unregister,
            "CudaSharedMemoryStatus": self.cuda_shared_memory_status,
            "CudaSharedMemoryRegister": self.cuda_shared_memory_register,
            "CudaSharedMemoryUnregister": self.cuda_shared_memory_unregister,
            "TraceSetting": self.trace_setting,
            "LogSettings": self.log_settings,
        }
        return {METHODS[name].path: answering(METHODS[name].request, function) for name, function in functions.items()}

    def system_shared_memory_status(self, request: pb.SystemSharedMemoryStatusRequest) -> pb.SystemSharedMemoryStatusResponse:
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self._enabled_memory().regions(request.name):
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset, region.byte_size
        return response

    def system_shared_memory_register(
        self, request: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._enabled_memory().register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def system_shared_memory_unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._enabled_memory().unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def cuda_shared_memory_status(self, _: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
        raise Unsupported(NO_CUDA)

    def cuda_shared_memory_register(self, _: pb.CudaSharedMemoryRegisterRequest) -> pb.CudaSharedMemoryRegisterResponse:
        raise Unsupported(NO_CUDA)

    def cuda_shared_memory_unregister(self, _: pb.CudaSharedMemoryUnregisterRequest) -> pb.CudaSharedMemoryUnregisterResponse:
        """Succeeds, because clients call it first to remove regions of earlier runs."""
        return pb.CudaSharedMemoryUnregisterResponse()

    def trace_setting(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        if request.model_name and not self._models.knows(request.model_name):
            meant = did_you_mean(request.model_name, self._models.names())
            raise NotFound(f"Request for unknown model: '{request.model_name}' is not found{meant}")
        changes = {key: list(setting.value) for key, setting in request.settings.items()}
        if changes:
            self._tracer.update(changes, request.model_name)
        response = pb.TraceSettingResponse()
        for key, values in self._tracer.settings(request.model_name).items():
            response.settings[key].value.extend(values)
        return response

    def log_settings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        self._log.update({key: _value(key, setting) for key, setting in request.settings.items()})
        response = pb.LogSettingsResponse()
        for key, value in self._log.settings().items():
            kind = "bool_param" if isinstance(value, bool) else "string_param" if isinstance(value, str) else "uint32_param"
            setattr(response.settings[key], kind, value)
        return response

    def _enabled_memory(self) -> SharedMemory:
        if self._shared_memory is None:
            raise Unsupported(NO_SHARED_MEMORY)
        return self._shared_memory


def _value(key: str, setting: pb.LogSettingsRequest.SettingValue) -> bool | int | str:
    kind = setting.WhichOneof("parameter_choice")
    if kind is None:
        raise InvalidRequest(f"log setting '{key}' has no value")
    value: bool | int | str = getattr(setting, kind)
    return value
