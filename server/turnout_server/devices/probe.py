"""Proves that a device works: a real run of a small model, whose answer is known."""

import numpy as np

from turnout_server.core.errors import ServingError
from turnout_server.devices.device import Device
from turnout_server.devices.sessions import OnnxSession

#: `y = -relu(conv(x, [1, 2]) + x @ [[1, 2], [3, 4]] + x)` on (1, 2) float32, as ONNX bytes (IR 8, opset 13). The convolution is
#: there because on CUDA it needs a library of its own, cuDNN, without which everything else works.
PROBE_MODEL = bytes.fromhex(
    "080812003ab0020a120a01780a01701201722207526573686170650a0f0a01720a016b1201632204436f6e760a120a01630a0171120173220752"
    "6573686170650a110a01780a017712016d22064d61744d756c0a0e0a016d0a017812016122034164640a0e0a01610a017312016222034164640a"
    "0c0a0162120175220452656c750a0b0a017512017922034e65671201672a1b0802080210014201774a100000803f000000400000404000008040"
    "2a170801080108010802100142016b4a080000803f000000402a29080410074201704a2001000000000000000100000000000000010000000000"
    "000002000000000000002a19080210074201714a10010000000000000001000000000000005a130a0178120e0a0c080112080a0208010a020802"
    "62130a0179120e0a0c080112080a0208010a02080242040a00100d"
)


def unavailable_reason(device: Device) -> str | None:
    """Why nothing can run on a device; None if a run on it gave the right answer."""
    try:
        session = OnnxSession(PROBE_MODEL, device)
        (result,) = session.run({"x": np.array([[2, 3]], np.float32)}, ["y"])
    except ServingError as error:
        return str(error)
    if not session.placement[device.provider]:
        return f"{device.provider} takes no part of a test model: ONNX Runtime ran it on {', '.join(session.placement)}"
    return None if result.tolist() == [[-21, -27]] else f"a test run gave {result.tolist()} where [[-21, -27]] is right"
