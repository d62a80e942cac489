"""What became of a request, as a sample: read from an answer, an error, or a message of a stream."""

import grpc
from turnout_proto import inference_pb2 as pb

from turnout_loadtests.client import number, text
from turnout_loadtests.sending.samples import OK, UNSTATED, Sample

#: The code of an error that a stream states in a message, which has no gRPC status.
STREAM_ERROR = "STREAM_ERROR"

Outcome = pb.ModelInferResponse | pb.ModelStreamInferResponse | grpc.RpcError


def sample_of(outcome: Outcome, due_s: float, began_s: float, ended_s: float) -> Sample:
    """The sample of a finished request, with what the server states in its answer."""
    if isinstance(outcome, grpc.RpcError):
        return Sample(due_s, began_s, ended_s, outcome.code().name)
    if isinstance(outcome, pb.ModelStreamInferResponse):
        if outcome.error_message:
            return Sample(due_s, began_s, ended_s, STREAM_ERROR)
        outcome = outcome.infer_response
    if not isinstance(outcome, pb.ModelInferResponse):
        return Sample(due_s, began_s, ended_s, OK)  # ServerLive's
    stated = outcome.parameters
    return Sample(
        due_s,
        began_s,
        ended_s,
        OK,
        device=text(stated, "device") or UNSTATED,
        precision=text(stated, "precision"),
        batch_size=number(stated, "batch_size"),
        decode_us=number(stated, "decode_us"),
        queue_us=number(stated, "queue_us"),
        compute_us=number(stated, "compute_us"),
    )


def failure_of(outcome: Outcome) -> str:
    """The text of a failure; empty for an answer."""
    if isinstance(outcome, grpc.RpcError):
        return str(outcome.details())
    return outcome.error_message if isinstance(outcome, pb.ModelStreamInferResponse) else ""
