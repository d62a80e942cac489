"""Classifies an image on a device of choice, with Triton's client: pip install 'tritonclient[grpc]'.

    python tritonclient_client.py [ADDRESS [DEVICE]]

The model is `digits` of the README: image (batch, 1, 8, 8) float32 -> logits (batch, 10) float32.
"""

import sys

import numpy as np
import tritonclient.grpc as inference
from tritonclient.utils import InferenceServerException


def main(address: str = "127.0.0.1:8001", device: str = "auto") -> None:
    """Prints the digit and where it was computed, or why it wasn't."""
    client = inference.InferenceServerClient(address)
    image = inference.InferInput("image", [1, 1, 8, 8], "FP32")
    image.set_data_from_numpy(np.zeros((1, 1, 8, 8), np.float32))
    try:
        result = client.infer("digits", [image], parameters={"device": device}, client_timeout=10)
    except InferenceServerException as error:
        sys.exit(f"{error.status()}: {error.message()}")
    parameters = result.get_response().parameters
    print(result.as_numpy("logits").argmax(), parameters["device"].string_param, parameters["route_reason"].string_param)


if __name__ == "__main__":
    main(*sys.argv[1:])
