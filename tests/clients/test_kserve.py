"""KServe's own client, unmodified, in an environment of its own: its message classes clash with tritonclient's."""

import json
from typing import Any

from tests.clients.environments import KSERVE, run_python
from tests.servers import RunningServer

#: Asks everything that the client can, and prints what came back as JSON.
SCRIPT = """
import asyncio, json, logging, sys
import grpc
import numpy as np
from kserve import InferInput, InferRequest, InferenceGRPCClient

logging.disable(logging.CRITICAL)


async def infer(client, model, inputs, id="", **options):
    tensors = []
    for name, array, datatype in inputs:
        tensors.append(InferInput(name, list(array.shape), datatype))
        tensors[-1].set_data_from_numpy(array, binary_data=options.get("binary", False))
    request = InferRequest(model, tensors, request_id=id, parameters=options.get("parameters", {}))
    return await client.infer(request, headers=options.get("headers"))


async def refusal(awaitable):
    try:
        await awaitable
    except grpc.RpcError as error:
        return [error.code().name, error.details()]


async def main(address):
    found = {}
    count, ones = np.arange(16, dtype=np.int32)[None], np.ones((1, 16), np.int32)
    pair = [("INPUT0", count, "INT32"), ("INPUT1", ones, "INT32")]
    text = np.array([["a", "grüß"]], np.object_)
    async with InferenceGRPCClient(address) as client:
        found["live"] = await client.is_server_live()
        found["ready"] = await client.is_server_ready()
        found["models"] = [await client.is_model_ready(name) for name in ("simple", "nowhere")]
        for way in (False, True):
            answer = await infer(client, "simple", pair, "7", binary=way)
            found[f"sum {way}"] = answer.outputs[0].as_numpy().tolist()
            found["id"], found["version"] = answer.id, answer.model_version
        answer = await infer(client, "simple", pair, parameters={"device": "cpu"})
        found["by parameter"] = answer.parameters["route_reason"].string_param
        answer = await infer(client, "simple", pair, headers=(("device", "cpu"),))
        found["by metadata"] = answer.parameters["route_reason"].string_param
        answer = await infer(client, "strings", [("INPUT", text, "BYTES")])
        found["text"] = [[cell.decode() for cell in row] for row in answer.outputs[0].as_numpy()]
        found["unknown"] = await refusal(infer(client, "nowhere", pair, "8"))
        found["absent"] = await refusal(infer(client, "simple", pair, parameters={"device": "cuda:7"}))
    print(json.dumps(found))


asyncio.run(main(sys.argv[1]))
"""


def test_kserves_client_works_unmodified(server: RunningServer) -> None:
    found: dict[str, Any] = json.loads(run_python(KSERVE, SCRIPT, server.address))
    assert (found["live"], found["ready"], found["models"]) == (True, True, [True, False])
    assert found["sum True"] == found["sum False"] == [[*range(1, 17)]]
    assert (found["id"], found["version"]) == ("7", "1")
    assert found["by parameter"] == found["by metadata"] == "requested"
    assert found["text"] == [["a", "grüß"]]
    assert found["unknown"] == ["NOT_FOUND", "[request id: 8] Request for unknown model: 'nowhere' is not found"]
    code, text = found["absent"]
    assert code == "FAILED_PRECONDITION"
    assert "device 'cuda:7' is not available" in text
