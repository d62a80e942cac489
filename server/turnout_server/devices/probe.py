"""Proves that a device works: a real run of a small model, whose answer is known."""

from dataclasses import replace

import numpy as np

from turnout_server.core.errors import ServingError
from turnout_server.devices.device import Device
from turnout_server.devices.sessions import OnnxSession

#: `y = -relu(x @ [[1, 2], [3, 4]] + x)` on (1, 2) float32, as ONNX bytes (IR 8, opset 13): small, and of the operators that
#: every provider should have one of.
PROBE_MODEL = bytes.fromhex(
    "08083a88010a110a01780a017712016122064d61744d756c0a0e0a01610a017812016222034164640a0c0a0162120163220452656c750a0b0a01"
    "6312017922034e65671201672a1b0802080210014201774a100000803f0000004000004040000080405a130a0178120e0a0c080112080a020801"
    "0a02080262130a0179120e0a0c080112080a0208010a02080242040a00100d"
)


def unavailable_reason(device: Device) -> str | None:
    """Why nothing can run on a device; None if a run on it gave the right answer."""
    try:
        session = OnnxSession(PROBE_MODEL, replace(device, graph_rows=()))
        (result,) = session.run({"x": np.array([[2, 3]], np.float32)}, ["y"])
    except ServingError as error:
        return str(error)
    if not session.placement[device.provider]:
        return f"{device.provider} takes no part of a test model: ONNX Runtime ran it on {', '.join(session.placement)}"
    return None if result.tolist() == [[-13, -19]] else f"a test run gave {result.tolist()} where [[-13, -19]] is right"
