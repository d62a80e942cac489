"""The RPCs about the server, its models and its repository, one method each."""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS

from turnout_server.core.errors import InvalidRequest, Unsupported
from turnout_server.models.control import Control, OnSettled
from turnout_server.rpc import describe
from turnout_server.rpc.handlers import answering, settling
from turnout_server.serving.dataplane import DataPlane
from turnout_server.transport.base import UnaryHandler


class ModelService:
    """Answers the RPCs about the server and its models, and those that load and unload models.

    Args:
        name, version, extensions: for ServerMetadata.
    """

    def __init__(self, dataplane: DataPlane, control: Control, name: str, version: str, extensions: list[str]) -> None:
        self._dataplane = dataplane
        self._repository = dataplane.repository
        self._control = control
        self._metadata = pb.ServerMetadataResponse(name=name, version=version, extensions=extensions)

    def unary(self) -> dict[str, UnaryHandler]:
        """Handlers by path."""
        functions: dict[str, Callable[[Any], Message]] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
        }
        handlers = {METHODS[name].path: answering(METHODS[name].request, function) for name, function in functions.items()}
        load, unload = METHODS["RepositoryModelLoad"], METHODS["RepositoryModelUnload"]
        handlers[load.path] = settling(load.request, self.repository_model_load, load.response())
        handlers[unload.path] = settling(unload.request, self.repository_model_unload, unload.response())
        return handlers

    def server_live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._dataplane.ready())

    def server_metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return self._metadata

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._dataplane.model_ready(request.name, request.version))

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        model = self._repository.find(request.name, request.version)
        serving = [model] if request.version else self._repository.ready(request.name)
        return describe.metadata(model, [each.version for each in serving])

    def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=describe.configuration(self._repository.find(request.name, request.version)))

    def model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        if request.name:
            self._repository.find(request.name, request.version)
        models = [model for model in self._repository.ready(request.name) if request.version in ("", str(model.version))]
        rows = [describe.statistics(model, self._dataplane.statistics(model)) for model in models]
        return pb.ModelStatisticsResponse(model_stats=rows)

    def repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        return describe.index(entry for entry in self._repository.index() if entry.state == "READY" or not request.ready)

    def repository_model_load(self, request: pb.RepositoryModelLoadRequest, settled: OnSettled) -> None:
        """Calls `settled` on the control thread when the model is ready or has failed to load."""
        name = self._model_name(request.repository_name, request.model_name)
        for key in request.parameters:
            if key != "config":
                raise Unsupported(
                    f"load parameter '{key}' is not supported: only 'config' is, files are never taken from clients"
                )
            if request.parameters[key].WhichOneof("parameter_choice") != "string_param":
                raise InvalidRequest("invalid value type for 'config' parameter, expected string_param.")
        configuration = request.parameters["config"].string_param if "config" in request.parameters else ""
        self._control.load(name, configuration, settled)

    def repository_model_unload(self, request: pb.RepositoryModelUnloadRequest, settled: OnSettled) -> None:
        """Calls `settled` on the control thread when no new request can reach the model."""
        self._control.unload(self._model_name(request.repository_name, request.model_name), settled)

    def _model_name(self, repository_name: str, model_name: str) -> str:
        """The model to load or unload. KServe's stubs send its name as `repository_name`."""
        if repository_name and model_name:
            raise Unsupported("'repository_name' specification is not supported")
        name = model_name or repository_name
        if not name or name in (".", "..") or "/" in name or "\0" in name or name != name.strip():
            raise InvalidRequest(f"'{name}' is not the name of a model: it must be a plain directory name")
        return name
