"""ModelInfer's messages on one side, requests and answers on the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from turnout_proto import inference_pb2 as pb

from turnout_server.core.datatypes import of_dtype
from turnout_server.core.errors import InvalidRequest, Unsupported
from turnout_server.core.messages import InferRequest, InferResponse
from turnout_server.core.signatures import Signature
from turnout_server.wire import fields as wire
from turnout_server.wire import parameters, tensors
from turnout_server.wire import responses as answers
from turnout_server.wire.classification import classify
from turnout_server.wire.decode_cache import Templates
from turnout_server.wire.shared_memory import Region, SharedMemory

#: Tensors as bytes, or as views of the message's bytes.
Raw = Sequence[bytes | memoryview]

#: As many class results as a request may ask for; more would be an answer much larger than its question.
MAX_CLASSES = 1_000_000


@dataclass(frozen=True)
class Form:
    """How a client wants an output: the tensor itself, its largest `classes` as text, or written into shared memory."""

    classes: int = 0
    region: Region | None = None
    offset: int = 0
    byte_size: int = 0


PLAIN = Form()
#: By the names of the outputs that a request asks for.
Forms = Mapping[str, Form]


class Codec:
    """Decodes and encodes.

    Args:
        shared_memory: where tensors may lie; None if that is switched off.
    """

    def __init__(self, shared_memory: SharedMemory | None) -> None:
        self._shared_memory = shared_memory
        self._templates: Templates[Forms] = Templates()

    def decode(self, message: bytes) -> tuple[InferRequest, Forms]:
        """The request in a message, and the form of the outputs that it names.

        Numbers in raw form become views of the message's bytes, not copies.

        Raises:
            InvalidRequest, NotFound, Unsupported: what is wrong, and with which tensor.
        """
        if (read := self._templates.read(message)) is not None:
            return read
        request, forms = self._parsed(*_parse(message))
        if all(form.region is None for form in forms.values()):
            self._templates.keep(message, request, forms)
        return request, forms

    def _parsed(self, request: pb.ModelInferRequest, raw: Raw) -> tuple[InferRequest, Forms]:
        if not request.model_name:
            raise InvalidRequest("the request names no model: set model_name")
        parameters.check_reserved(request.parameters)
        forms = self._forms(request)
        decoded = InferRequest(
            model=request.model_name,
            version=request.model_version,
            id=request.id,
            inputs=self._inputs(request, raw),
            outputs=tuple(forms),
            device=parameters.text(request.parameters, "device"),
            timeout_us=parameters.whole(request.parameters, "timeout") or None,
            objective=parameters.check_objective(parameters.text(request.parameters, "objective")),
            precision=parameters.text(request.parameters, "precision"),
            priority=parameters.whole(request.parameters, "priority") or 0,
        )
        return decoded, forms

    def encode(self, response: InferResponse, forms: Forms) -> bytes:
        """The message of an answer; outputs are always raw, because that is what every client reads.

        Raises:
            InvalidRequest, Overloaded: an output can't be given in the form asked for.
        """
        parts: list[bytes | np.ndarray] = [answers.head(response.origin), answers.request_id(response.id)]
        parts += [answers.figure(key, value) for key, value in response.figures.items()]
        for name, array in response.outputs.items():
            form = forms.get(name, PLAIN)
            output = _classified(name, array, form.classes, response.signature) if form.classes else array
            data = tensors.to_raw(output)
            if form.region is None:
                byte_size = data.nbytes if isinstance(data, np.ndarray) else len(data)
                parts += (answers.tensor(name, of_dtype(output.dtype).name, output.shape, byte_size), data)
            else:
                parts += (_placed(name, output, data, form), answers.contents(0))
        return answers.join(parts)

    def _inputs(self, request: pb.ModelInferRequest, raw: Raw) -> dict[str, np.ndarray]:
        unread = iter(raw)
        arrays: dict[str, np.ndarray] = {}
        for tensor in request.inputs:
            if tensor.name in arrays:
                raise InvalidRequest(f"input '{tensor.name}' already exists in request for model '{request.model_name}'")
            arrays[tensor.name] = self._input(tensor, unread, request.model_name, mixed=len(raw) > 0)
        if next(unread, None) is not None:
            raise InvalidRequest(
                f"{len(raw)} raw_input_contents are too many for the {len(request.inputs)} inputs "
                f"for model '{request.model_name}'"
            )
        return arrays

    def _input(
        self, tensor: tensors.InputTensor, unread: Iterator[bytes | memoryview], model: str, *, mixed: bool
    ) -> np.ndarray:
        if tensor.parameters and (place := self._place(tensor.parameters)):
            region, offset, byte_size = place
            return tensors.from_raw(tensor, region.read(offset, byte_size), model)
        if tensor.HasField("contents"):
            if mixed:
                raise InvalidRequest(
                    f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
                    f"for model '{model}'"
                )
            return tensors.from_typed(tensor, model)
        data = next(unread, None)
        if data is None:
            raise InvalidRequest(f"unable to find data for input tensor '{tensor.name}' for model '{model}' in request.")
        return tensors.from_raw(tensor, data, model)

    def _forms(self, request: pb.ModelInferRequest) -> dict[str, Form]:
        forms: dict[str, Form] = {}
        for output in request.outputs:
            if output.name in forms:
                raise InvalidRequest(f"output '{output.name}' already exists in request for model '{request.model_name}'")
            forms[output.name] = self._form(output) if output.parameters else PLAIN
        return forms

    def _form(self, output: pb.ModelInferRequest.InferRequestedOutputTensor) -> Form:
        classes = parameters.whole(output.parameters, "classification") or 0
        if classes > MAX_CLASSES:
            raise InvalidRequest(f"output '{output.name}': at most {MAX_CLASSES} classes are given, {classes} were asked for")
        place = self._place(output.parameters)
        if place is None:
            return Form(classes)
        if classes:
            raise InvalidRequest(f"output '{output.name}': classification results cannot be put into shared memory")
        region, offset, byte_size = place
        region.check(offset, byte_size)
        return Form(0, region, offset, byte_size)

    def _place(self, given: parameters.Parameters) -> tuple[Region, int, int] | None:
        """The region, offset and size that a tensor's parameters name; None if they name none."""
        if "shared_memory_region" not in given:
            return None
        name = parameters.text(given, "shared_memory_region")
        if self._shared_memory is None:
            raise Unsupported("Client shared memory is disabled. Start the server with '--allow-client-shm' to enable.")
        byte_size = parameters.whole(given, "shared_memory_byte_size")
        if byte_size is None:
            raise InvalidRequest("'shared_memory_byte_size' must be specified along with 'shared_memory_region'")
        return self._shared_memory.find(name), parameters.whole(given, "shared_memory_offset") or 0, byte_size


def id_of(message: bytes) -> str:
    """The id of a request that could not be decoded; empty if not even that can be read."""
    try:
        return _parse(message)[0].id
    except InvalidRequest:
        return ""


def _parse(message: bytes) -> tuple[pb.ModelInferRequest, Raw]:
    """The message, and its raw tensors, which stay where they are if it is large.

    Raises:
        InvalidRequest: it isn't a ModelInferRequest.
    """
    raw: Raw | None = None
    if len(message) >= wire.LARGE_BYTES:
        message, raw = wire.split(message)
    try:
        request = pb.ModelInferRequest.FromString(message)
    except DecodeError:
        raise InvalidRequest("the message is not a valid ModelInferRequest") from None
    return request, request.raw_input_contents if raw is None else raw


def _classified(name: str, array: np.ndarray, n: int, signature: Signature) -> np.ndarray:
    return classify(array, n, signature.output_by_name[name].labels, batched=signature.max_batch_size > 0)


def _placed(name: str, output: np.ndarray, data: bytes | np.ndarray, form: Form) -> bytes:
    """Writes an output to where its client wants it; returns its description."""
    assert form.region is not None
    raw = bytes(data)
    if len(raw) > form.byte_size:
        raise InvalidRequest(
            f"shared memory size specified with the request for output '{name}' ({form.byte_size} bytes) should be "
            f"at least {len(raw)} bytes to hold the results"
        )
    form.region.write(form.offset, raw)
    tensor = pb.ModelInferResponse.InferOutputTensor(name=name, datatype=of_dtype(output.dtype).name, shape=output.shape)
    tensor.parameters["shared_memory_region"].string_param = form.region.name
    tensor.parameters["shared_memory_byte_size"].int64_param = len(raw)
    if form.offset:
        tensor.parameters["shared_memory_offset"].int64_param = form.offset
    return pb.ModelInferResponse(outputs=[tensor]).SerializeToString()
