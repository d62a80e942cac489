"""Converts between the bytes of ModelInfer's messages, and requests and responses."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from turnout_proto import inference_pb2 as pb

from turnout_server.core.datatypes import of_dtype
from turnout_server.core.errors import InvalidRequest, Overloaded, Unsupported
from turnout_server.core.messages import InferRequest, InferResponse, Layout
from turnout_server.core.signatures import Signature
from turnout_server.wire import fields, parameters, responses, tensors
from turnout_server.wire.allowance import Allowance
from turnout_server.wire.classification import classify
from turnout_server.wire.decode_cache import DecodeCache, Description
from turnout_server.wire.shared_memory import Region, SharedMemory

logger = logging.getLogger(__name__)

#: Bytes of the message, or views of them.
Buffer = bytes | memoryview

#: The most class results that a request may ask for; more would make the response much larger than the request.
MAX_CLASSES = 1_000_000
#: How much of a name is repeated in the error about a request.
MAX_IDENTITY_BYTES = 1024
#: Every client writes the model's name, version and id first.
MAX_IDENTITY_FIELDS = 8
#: The most warnings about requests, because clients decide how many there could be.
MAX_WARNINGS = 64


@dataclass(frozen=True)
class OutputFormat:
    """How a client wants an output: as a tensor, as its `classes` largest values in text, or in a shared-memory region."""

    classes: int = 0
    region: Region | None = None
    offset: int = 0
    byte_size: int = 0


PLAIN = OutputFormat()
#: By name of the requested output.
OutputFormats = Mapping[str, OutputFormat]


class _Parsed(NamedTuple):
    """A parsed message, and the data of its tensors.

    Attributes:
        raw: its `raw_input_contents`.
        contents: for each input, the parts of its `contents`; None if they are in `request`.
        allowance: the memory that the decoded tensors may take.
    """

    request: pb.ModelInferRequest
    raw: Sequence[Buffer]
    contents: Sequence[Sequence[Buffer]] | None
    allowance: Allowance


class Codec:
    """Decodes requests and encodes responses.

    Args:
        shared_memory: the regions that tensors may be in; None if shared memory is disabled.
        max_message_bytes: a larger response is refused instead of built.
    """

    def __init__(self, shared_memory: SharedMemory | None, max_message_bytes: int = 2**31 - 1) -> None:
        self._shared_memory = shared_memory
        self._max_message_bytes = max_message_bytes
        self._cache: DecodeCache[OutputFormats] = DecodeCache()
        self._warned: set[str] = set()

    def is_quick(self, message: bytes) -> bool:
        """Whether `decode` takes a millisecond at most, as it does for small messages and for those like an earlier one.

        Others belong to a thread that nobody waits for.
        """
        if len(message) < fields.LARGE_BYTES:
            return self._shared_memory is None or b"shared_memory_region" not in message
        return self._cache.find(message) is not None

    def decode(
        self, message: bytes, metadata: Mapping[str, str], deadline_s: float | None, arrived_s: float
    ) -> tuple[InferRequest, OutputFormats]:
        """The request in a message, and the format of each requested output.

        Raw numeric tensors are views of the message, not copies.

        Args:
            metadata: of the call; its `device` and `objective` apply if the message has no such parameter.
            deadline_s: when the client stops waiting, on the monotonic clock; None if it never does.
            arrived_s: when the message was received, on the monotonic clock.

        Raises:
            InvalidRequest, NotFound, Unsupported: the text names what is wrong, and the tensor if it is about one.
        """
        cached = self._cache.find(message)
        if cached is None:
            parsed = _parse(message)
            description, inputs, formats = self._describe(parsed)
            if all(output_format.region is None for output_format in formats.values()):
                self._cache.keep(message, description, inputs, formats)
            request_id = parsed.request.id
        else:
            description, formats, request_id, inputs = cached
        device, objective = description.device, description.objective
        if metadata:
            device = device or metadata.get("device", "")
            if not objective and "objective" in metadata:
                objective = parameters.check_objective(metadata["objective"])
        decoded = InferRequest(
            description.model,
            description.version,
            request_id,
            inputs,
            description.outputs,
            device,
            description.timeout_us,
            objective,
            description.precision,
            description.priority,
            deadline_s,
            arrived_s,
            int((time.monotonic() - arrived_s) * 1e6),
            description.layout,
        )
        return decoded, formats

    def _describe(self, parsed: _Parsed) -> tuple[Description, dict[str, np.ndarray], OutputFormats]:
        request = parsed.request
        if not request.model_name:
            raise InvalidRequest("the request names no model: set model_name")
        parameters.check_reserved(request.parameters)
        self._warn_of_misspellings(request)
        formats = self._formats(request)
        inputs, outputs = self._inputs(parsed), tuple(formats)
        description = Description(
            model=request.model_name,
            version=request.model_version,
            outputs=outputs,
            device=parameters.text(request.parameters, "device"),
            timeout_us=parameters.whole(request.parameters, "timeout") or None,
            objective=parameters.check_objective(parameters.text(request.parameters, "objective")),
            precision=parameters.text(request.parameters, "precision"),
            priority=parameters.whole(request.parameters, "priority") or 0,
            layout=Layout(inputs, outputs),
        )
        return description, inputs, formats

    def _warn_of_misspellings(self, request: pb.ModelInferRequest) -> None:
        """Logs each misspelled parameter once."""
        for key, meant in parameters.misspelled(request.parameters).items():
            if key not in self._warned and len(self._warned) < MAX_WARNINGS:
                self._warned.add(key)
                model = request.model_name[:64]
                logger.warning("requests for model %r have a parameter %r without effect: is '%s' meant?", model, key, meant)

    def encode(self, response: InferResponse, formats: OutputFormats) -> bytes:
        """The message of a response. Outputs are always raw, because all clients can read that.

        Raises:
            InvalidRequest, Overloaded: an output can't be encoded in the requested format, or the response would be too large.
        """
        segments: list[bytes | np.ndarray] = [responses.head(response.provenance), responses.request_id(response.id)]
        segments += [responses.timing(key, value) for key, value in response.timings.items()]
        size = 0
        for name, array in response.outputs.items():
            output_format = formats.get(name, PLAIN)
            output = _classified(name, array, output_format.classes, response.signature) if output_format.classes else array
            data = tensors.to_raw(output)
            if output_format.region is None:
                byte_size = data.nbytes if isinstance(data, np.ndarray) else len(data)
                size += byte_size
                segments += (responses.tensor(name, of_dtype(output.dtype).name, output.shape, byte_size), data)
            else:
                segments += (_write_to_region(name, output, data, output_format), responses.contents(0))
        self._check_size(size, response)  # before the message is built
        message = responses.join(segments)
        self._check_size(len(message), response)
        return message

    def _check_size(self, size: int, response: InferResponse) -> None:
        if size > self._max_message_bytes:
            raise Overloaded(
                f"the response of model '{response.provenance.model}' has {size} bytes, more than {self._max_message_bytes} "
                f"(--max-message-bytes); ask for fewer rows or outputs"
            )

    def _inputs(self, parsed: _Parsed) -> dict[str, np.ndarray]:
        request, unread = parsed.request, iter(parsed.raw)
        arrays: dict[str, np.ndarray] = {}
        for at, tensor in enumerate(request.inputs):
            if tensor.name in arrays:
                raise InvalidRequest(f"input '{tensor.name}' already exists in request for model '{request.model_name}'")
            arrays[tensor.name] = self._input(parsed, at, unread)
        if next(unread, None) is not None:
            raise InvalidRequest(
                f"{len(parsed.raw)} raw_input_contents are too many for the {len(request.inputs)} inputs "
                f"for model '{request.model_name}'"
            )
        return arrays

    def _input(self, parsed: _Parsed, at: int, unread: Iterator[Buffer]) -> np.ndarray:
        tensor, model, allowance = parsed.request.inputs[at], parsed.request.model_name, parsed.allowance
        if tensor.parameters and (shared := self._shared_range(tensor.parameters)):
            region, offset, byte_size = shared
            allowance.widen(byte_size)
            return tensors.from_raw(tensor, region.read(offset, byte_size), model, allowance)
        if tensor.HasField("contents"):
            if parsed.raw:
                raise InvalidRequest(
                    f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
                    f"for model '{model}'"
                )
            contents = [tensor.contents.SerializeToString()] if parsed.contents is None else parsed.contents[at]
            return tensors.from_typed(tensor, contents, model, allowance)
        data = next(unread, None)
        if data is None:
            raise InvalidRequest(f"unable to find data for input tensor '{tensor.name}' for model '{model}' in request.")
        return tensors.from_raw(tensor, data, model, allowance)

    def _formats(self, request: pb.ModelInferRequest) -> dict[str, OutputFormat]:
        formats: dict[str, OutputFormat] = {}
        for output in request.outputs:
            if output.name in formats:
                raise InvalidRequest(f"output '{output.name}' already exists in request for model '{request.model_name}'")
            formats[output.name] = self._format(output) if output.parameters else PLAIN
        return formats

    def _format(self, output: pb.ModelInferRequest.InferRequestedOutputTensor) -> OutputFormat:
        classes = parameters.whole(output.parameters, "classification") or 0
        if classes > MAX_CLASSES:
            raise InvalidRequest(f"output '{output.name}': at most {MAX_CLASSES} classes are given, {classes} were asked for")
        shared = self._shared_range(output.parameters)
        if shared is None:
            return OutputFormat(classes)
        if classes:
            raise InvalidRequest(f"output '{output.name}': classification results cannot be put into shared memory")
        region, offset, byte_size = shared
        region.check(offset, byte_size)
        return OutputFormat(0, region, offset, byte_size)

    def _shared_range(self, given: parameters.Parameters) -> tuple[Region, int, int] | None:
        """The region, offset and size in a tensor's parameters; None if they name no region."""
        if "shared_memory_region" not in given:
            return None
        name = parameters.text(given, "shared_memory_region")
        if self._shared_memory is None:
            raise Unsupported("Client shared memory is disabled. Start the server with '--allow-client-shm' to enable.")
        byte_size = parameters.whole(given, "shared_memory_byte_size")
        if byte_size is None:
            raise InvalidRequest("'shared_memory_byte_size' must be specified along with 'shared_memory_region'")
        return self._shared_memory.find(name), parameters.whole(given, "shared_memory_offset") or 0, byte_size


class Identity(NamedTuple):
    """The id, model and version of a request; empty where they can't be read."""

    id: str = ""
    model: str = ""
    version: str = ""


def identify(message: bytes) -> Identity:
    """The identity of a request that couldn't be decoded, as far as it can be read."""
    found = {1: b"", 2: b"", 3: b""}
    with suppress(InvalidRequest):
        for field in fields.fields(message, fields.Count(MAX_IDENTITY_FIELDS)):
            if field.tag & 7 == fields.LENGTH and field.tag >> 3 in found:
                found[field.tag >> 3] = message[field.content : min(field.end, field.content + MAX_IDENTITY_BYTES)]
    name, version, request_id = (value.decode(errors="replace") for value in found.values())
    return Identity(request_id, name, version)


def _parse(message: bytes) -> _Parsed:
    """A parsed message. The tensors of large ones are views, not copies.

    Raises:
        InvalidRequest: it isn't a ModelInferRequest, or it has too many fields.
    """
    parts = fields.split(message) if len(message) >= fields.LARGE_BYTES else None
    try:
        request = pb.ModelInferRequest.FromString(message if parts is None else parts.rest)
    except DecodeError:
        raise InvalidRequest("the message is not a valid ModelInferRequest") from None
    allowance = Allowance(len(message))
    if parts is None:
        return _Parsed(request, request.raw_input_contents, None, allowance)
    return _Parsed(request, parts.raw, parts.contents, allowance)


def _classified(name: str, array: np.ndarray, n: int, signature: Signature) -> np.ndarray:
    return classify(array, n, signature.output_by_name[name].labels, batched=signature.max_batch_size > 0)


def _write_to_region(name: str, output: np.ndarray, data: bytes | np.ndarray, output_format: OutputFormat) -> bytes:
    """Writes an output into its shared-memory region; returns its description for the message."""
    assert output_format.region is not None
    raw = data if isinstance(data, bytes) else memoryview(data.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # since Python 3.12 it is a Buffer
    if len(raw) > output_format.byte_size:
        raise InvalidRequest(
            f"shared memory size specified with the request for output '{name}' ({output_format.byte_size} bytes) should be "
            f"at least {len(raw)} bytes to hold the results"
        )
    output_format.region.write(output_format.offset, raw)
    tensor = pb.ModelInferResponse.InferOutputTensor(name=name, datatype=of_dtype(output.dtype).name, shape=output.shape)
    tensor.parameters["shared_memory_region"].string_param = output_format.region.name
    tensor.parameters["shared_memory_byte_size"].int64_param = len(raw)
    if output_format.offset:
        tensor.parameters["shared_memory_offset"].int64_param = output_format.offset
    return pb.ModelInferResponse(outputs=[tensor]).SerializeToString()
