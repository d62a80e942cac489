"""Classifies images over one stream, with nothing but gRPC and the message classes that this repository brings (turnout_proto).

    python grpc_client.py [ADDRESS [DEVICE]]

The model is `digits` of the README: image (batch, 1, 8, 8) float32 -> logits (batch, 10) float32.
"""

import sys
from collections.abc import Iterator

import grpc
import numpy as np
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

IMAGES = 3


def requests(device: str) -> Iterator[pb.ModelInferRequest]:
    """One request for each image; an answer has the id of its request."""
    for number in range(IMAGES):
        request = pb.ModelInferRequest(model_name="digits", id=str(number))
        request.inputs.add(name="image", datatype="FP32", shape=[1, 1, 8, 8])
        request.raw_input_contents.append(np.full((1, 1, 8, 8), number / IMAGES, "<f4").tobytes())
        request.parameters["device"].string_param = device
        yield request


def main(address: str = "127.0.0.1:8001", device: str = "auto") -> None:
    """Prints each image's digit and where it was computed, or why it wasn't."""
    with grpc.insecure_channel(address) as channel:
        try:
            for answer in Stub(channel).ModelStreamInfer(requests(device), timeout=10):
                print(*described(answer))
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")


def described(answer: pb.ModelStreamInferResponse) -> tuple[str, ...]:
    """The id of an answer, and its digit and device, or the error."""
    response = answer.infer_response
    if answer.error_message:  # of this request alone; the stream goes on
        return response.id, answer.error_message
    logits = np.frombuffer(response.raw_output_contents[0], "<f4")
    return response.id, str(logits.argmax()), response.parameters["device"].string_param


if __name__ == "__main__":
    main(*sys.argv[1:])
