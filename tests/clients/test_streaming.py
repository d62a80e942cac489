"""Tests with tritonclient's synchronous and asyncio streams."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.clients.tensors import ONES, PAIR, inputs
from tests.servers import RunningServer

Answers = SimpleQueue[tuple[Any, InferenceServerException | None]]

#: How long a test waits for an answer.
ANSWER_TIMEOUT_S = 20


@contextmanager
def streaming(client: triton.InferenceServerClient, **options: Any) -> Iterator[Answers]:
    """Opens a stream; yields a queue of its callback's arguments."""
    answers: Answers = SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)), **options)
    yield answers
    client.stop_stream()


def test_answers_have_the_order_of_their_requests(client: triton.InferenceServerClient) -> None:
    with streaming(client) as answers:
        for number in range(100):
            pair = {"INPUT0": np.full((1, 16), number, np.int32), "INPUT1": ONES}
            client.async_stream_infer("simple", inputs(pair), request_id=str(number))
        for number in range(100):
            result, error = answers.get(timeout=ANSWER_TIMEOUT_S)
            assert error is None
            assert result.get_response().id == str(number)
            assert result.as_numpy("OUTPUT0")[0, 0] == number + 1


def test_a_fast_request_is_answered_after_the_slow_one_before_it(client: triton.InferenceServerClient) -> None:
    with streaming(client) as answers:
        client.async_stream_infer("slow", inputs({"n": np.array(200_000)}), request_id="slow")
        client.async_stream_infer("simple", inputs(PAIR), request_id="quick")
        assert [answers.get(timeout=ANSWER_TIMEOUT_S)[0].get_response().id for _ in range(2)] == ["slow", "quick"]


def test_every_answer_is_marked_as_final(client: triton.InferenceServerClient) -> None:
    with streaming(client) as answers:
        client.async_stream_infer("simple", inputs(PAIR), enable_empty_final_response=True)
        result, _ = answers.get(timeout=ANSWER_TIMEOUT_S)
        assert result.get_response().parameters["triton_final_response"].bool_param


def test_an_error_does_not_end_the_stream(client: triton.InferenceServerClient) -> None:
    with streaming(client) as answers:
        client.async_stream_infer("nowhere", inputs(PAIR), request_id="7")
        client.async_stream_infer("simple", inputs(PAIR), request_id="8")
        _, error = answers.get(timeout=ANSWER_TIMEOUT_S)
        assert error is not None
        assert error.message() == "[request id: 7] Request for unknown model: 'nowhere' is not found"
        result, error = answers.get(timeout=ANSWER_TIMEOUT_S)
        assert (result.get_response().id, error) == ("8", None)


def test_an_error_ends_the_stream_if_the_client_asks_for_grpc_errors(client: triton.InferenceServerClient) -> None:
    with streaming(client, headers={"triton_grpc_error": "true"}) as answers:
        client.async_stream_infer("simple", inputs(PAIR), request_id="1")
        client.async_stream_infer("nowhere", inputs(PAIR), request_id="2")
        assert answers.get(timeout=ANSWER_TIMEOUT_S)[0].get_response().id == "1"
        _, error = answers.get(timeout=ANSWER_TIMEOUT_S)
        assert error is not None
        assert error.status() == "StatusCode.NOT_FOUND"
        assert "[request id: 2] Request for unknown model" in error.message()


def test_a_cancelled_stream_does_not_affect_later_requests(client: triton.InferenceServerClient) -> None:
    answers: Answers = SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for _ in range(20):
        client.async_stream_infer("slow", inputs({"n": np.array(100_000)}))
    client.stop_stream(cancel_requests=True)
    _, error = answers.get(timeout=ANSWER_TIMEOUT_S)
    assert error is not None
    assert error.status() == "StatusCode.CANCELLED"
    np.testing.assert_array_equal(client.infer("simple", inputs(PAIR)).as_numpy("OUTPUT0"), PAIR["INPUT0"] + 1)


def run(server: RunningServer, body: Callable[[triton_aio.InferenceServerClient], Any]) -> None:
    async def main() -> None:
        async with triton_aio.InferenceServerClient(server.address) as client:
            await asyncio.wait_for(body(client), ANSWER_TIMEOUT_S)

    asyncio.run(main())


def test_the_asyncio_client_streams_in_order(server: RunningServer) -> None:
    async def requests() -> Any:
        for number in range(50):
            model = "nowhere" if number == 20 else "simple"
            yield {"model_name": model, "inputs": inputs(PAIR), "request_id": str(number)}

    async def body(client: triton_aio.InferenceServerClient) -> None:
        seen = []
        async for result, error in client.stream_infer(requests()):
            seen.append("error" if error else result.get_response().id)
        assert seen == [*map(str, range(20)), "error", *map(str, range(21, 50))]

    run(server, body)


def test_the_asyncio_client_calls_all_methods(server: RunningServer) -> None:
    async def body(client: triton_aio.InferenceServerClient) -> None:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert (await client.get_server_metadata()).name == "triton"
        assert await client.is_model_ready("simple", "1")
        assert (await client.get_model_metadata("simple", as_json=True))["inputs"][0]["shape"] == ["-1", "16"]
        assert (await client.get_model_config("simple")).config.max_batch_size == 8
        statistics = await client.get_inference_statistics("simple")
        assert len(statistics.model_stats) == 1
        results = await asyncio.gather(*[client.infer("simple", inputs(PAIR), request_id=str(n)) for n in range(20)])
        assert [result.get_response().id for result in results] == [*map(str, range(20))]

    run(server, body)


def test_the_asyncio_client_can_cancel_a_request(server: RunningServer) -> None:
    async def body(client: triton_aio.InferenceServerClient) -> None:
        task = asyncio.create_task(client.infer("slow", inputs({"n": np.array(300_000)})))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.infer("simple", inputs(PAIR))).as_numpy("OUTPUT0") is not None

    run(server, body)
