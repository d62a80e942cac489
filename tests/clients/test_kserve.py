"""Tests with KServe's unmodified client, in a separate environment because its message classes clash with tritonclient's."""

import json
from typing import Any

from tests.clients.environments import KSERVE, run_python
from tests.servers import RunningServer

#: Calls each method of the client, and prints the results as JSON.
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
    results = {}
    count, ones = np.arange(16, dtype=np.int32)[None], np.ones((1, 16), np.int32)
    pair = [("INPUT0", count, "INT32"), ("INPUT1", ones, "INT32")]
    text = np.array([["a", "grüß"]], np.object_)
    async with InferenceGRPCClient(address) as client:
        results["live"] = await client.is_server_live()
        results["ready"] = await client.is_server_ready()
        results["models"] = [await client.is_model_ready(name) for name in ("simple", "nowhere")]
        for binary in (False, True):
            answer = await infer(client, "simple", pair, "7", binary=binary)
            results[f"sum {binary}"] = answer.outputs[0].as_numpy().tolist()
            results["id"], results["version"] = answer.id, answer.model_version
        answer = await infer(client, "simple", pair, parameters={"device": "cpu"})
        results["by parameter"] = answer.parameters["route_reason"].string_param
        answer = await infer(client, "simple", pair, headers=(("device", "cpu"),))
        results["by metadata"] = answer.parameters["route_reason"].string_param
        answer = await infer(client, "strings", [("INPUT", text, "BYTES")])
        results["text"] = [[cell.decode() for cell in row] for row in answer.outputs[0].as_numpy()]
        results["unknown"] = await refusal(infer(client, "nowhere", pair, "8"))
        results["absent"] = await refusal(infer(client, "simple", pair, parameters={"device": "cuda:7"}))
    print(json.dumps(results))


asyncio.run(main(sys.argv[1]))
"""


def test_kserves_client_works_unmodified(server: RunningServer) -> None:
    results: dict[str, Any] = json.loads(run_python(KSERVE, SCRIPT, server.address))
    assert (results["live"], results["ready"], results["models"]) == (True, True, [True, False])
    assert results["sum True"] == results["sum False"] == [[*range(1, 17)]]
    assert (results["id"], results["version"]) == ("7", "1")
    assert results["by parameter"] == results["by metadata"] == "requested"
    assert results["text"] == [["a", "grüß"]]
    assert results["unknown"] == ["NOT_FOUND", "[request id: 8] Request for unknown model: 'nowhere' is not found"]
    code, text = results["absent"]
    assert code == "FAILED_PRECONDITION"
    assert "device 'cuda:7' is not available" in text
