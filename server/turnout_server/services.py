"""One function for each RPC of the inference service, and how errors become statuses."""

import logging
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS

from turnout_server import codec
from turnout_server.dataplane import DataPlane
from turnout_server.errors import InvalidRequest, ServingError, internal_error, status_of
from turnout_server.messages import InferResponse
from turnout_server.signatures import TensorSpec
from turnout_server.transport import Call, Status, UnaryHandler

logger = logging.getLogger(__name__)

PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("binary_tensor_data", "parameters")
#: Longer texts make gRPC drop the status itself: metadata has a hard limit of 16 KiB.
MAX_DETAILS_BYTES = 1024


class InferenceService:
    """The Open Inference Protocol over a data plane.

    Args:
        name, version: what ServerMetadata answers.
    """

    def __init__(self, dataplane: DataPlane, name: str, version: str) -> None:
        self._dataplane = dataplane
        self._repository = dataplane.repository
        self._name = name
        self._version = version

    def handlers(self) -> dict[str, UnaryHandler]:
        """Handlers of the unary RPCs, by path."""
        functions: dict[str, Callable[[Any], Message]] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "RepositoryIndex": self.repository_index,
        }
        plain = {METHODS[name].path: answering(METHODS[name].request, function) for name, function in functions.items()}
        return {**plain, METHODS["ModelInfer"].path: self.model_infer}

    def server_live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._dataplane.ready())

    def server_metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=self._name, version=self._version, extensions=EXTENSIONS)

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._repository.is_ready(request.name, request.version))

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        model = self._repository.find(request.name, request.version)
        versions = [model.version] if request.version else [m.version for m in self._repository.ready(request.name)]
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=map(str, versions),
            platform=PLATFORM,
            inputs=map(_tensor_metadata, model.signature.inputs),
            outputs=map(_tensor_metadata, model.signature.outputs),
        )

    def repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        entries = [e for e in self._repository.index() if e.state == "READY" or not request.ready]
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(name=e.name, version=e.version, state=e.state, reason=e.reason)
                for e in entries
            ]
        )

    def model_infer(self, call: Call, message: bytes) -> None:
        """Decodes, hands over to the data plane, and answers from whichever thread has the outcome."""
        started_s = time.monotonic()
        request_id = ""
        try:
            parsed = codec.parse(message)
            request_id = parsed.id
            request = codec.decode(parsed, call.metadata)
        except ServingError as error:
            call.finish(status(error, request_id))
            return
        except Exception:
            call.finish(status(_unexpected(), request_id))
            return
        request.arrived_s = started_s
        request.deadline_s = _earlier(call.deadline_s, started_s, request.timeout_us)
        request.decode_us = int((time.monotonic() - started_s) * 1e6)

        def done(outcome: InferResponse | ServingError) -> None:
            if isinstance(outcome, ServingError):
                call.finish(status(outcome, request_id))
            else:
                call.send(codec.encode(outcome))
                call.finish()

        call.on_cancel(self._dataplane.infer(request, done))


def answering(request_class: Any, function: Callable[[Any], Message]) -> UnaryHandler:
    """The handler of an RPC that is answered on the spot."""

    def handle(call: Call, message: bytes) -> None:
        try:
            response = function(request_class.FromString(message))
        except DecodeError:
            call.finish(status(InvalidRequest(f"the message is not a valid {request_class.DESCRIPTOR.name}")))
        except ServingError as error:
            call.finish(status(error))
        except Exception:
            call.finish(status(_unexpected()))
        else:
            call.send(response.SerializeToString())
            call.finish()

    return handle


def status(error: ServingError, request_id: str = "") -> Status:
    """The gRPC status of an error, its text capped and free of control characters."""
    text = f"[request id: {request_id}] {error}" if request_id else str(error)
    pushback_ms = getattr(error, "pushback_ms", None)
    trailing = () if pushback_ms is None else (("grpc-retry-pushback-ms", str(pushback_ms)),)
    return Status(grpc.StatusCode[status_of(error)], _printable(text), trailing)


def _printable(text: str) -> str:
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:MAX_DETAILS_BYTES])
    return escaped.encode(errors="replace")[:MAX_DETAILS_BYTES].decode(errors="ignore")


def _unexpected() -> ServingError:
    error = internal_error()
    logger.exception("%s", error)
    return error


def _earlier(deadline_s: float | None, now_s: float, timeout_us: int | None) -> float | None:
    if timeout_us is None:
        return deadline_s
    own_s = now_s + timeout_us * 1e-6
    return own_s if deadline_s is None else min(deadline_s, own_s)


def _tensor_metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype.name, shape=spec.shape)
