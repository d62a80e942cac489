"""The transport on grpc.aio: uses only public interfaces, but every call goes through an event loop."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from turnout_server.transport.addresses import may_share, require_free
from turnout_server.transport.base import (
    NO_MESSAGE,
    OK,
    STREAM_WINDOW,
    Handlers,
    Status,
    StreamHandler,
    UnaryHandler,
    handler_failed,
)

Context = grpc.aio.ServicerContext[Any, Any]

#: After the server has stopped, the loop's remaining tasks need only an iteration or two.
SETTLE_TIMEOUT_S = 1.0


class AioTransport:
    """Runs `handlers` on an event loop in its own thread.

    Args:
        address: as `addresses.target` returns it; port 0 selects a free one.
        options: gRPC channel arguments.
        credentials: for TLS; None for plain text.

    Raises:
        OSError: the address can't be bound.
    """

    def __init__(
        self,
        address: str,
        handlers: Handlers,
        options: Sequence[tuple[str, Any]],
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        require_free(address, shared=may_share(options))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="transport", daemon=True)
        self._thread.start()
        try:
            self._server, self.port = self._on_loop(self._bind(address, handlers, options, credentials))
        except RuntimeError as error:
            self._end_loop()
            raise OSError(f"cannot listen on {address}: {error}") from None

    def start(self) -> None:
        """See Transport."""
        self._on_loop(self._server.start())

    def stop(self, grace_s: float) -> None:
        """See Transport."""
        if not self._loop.is_closed():
            self._on_loop(self._server.stop(grace_s))
            self._on_loop(_settled())
            self._end_loop()

    async def _bind(
        self,
        address: str,
        handlers: Handlers,
        options: Sequence[tuple[str, Any]],
        credentials: grpc.ServerCredentials | None,
    ) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=list(options))
        server.add_generic_rpc_handlers([_Router(handlers, self._loop)])
        if credentials is None:
            return server, server.add_insecure_port(address)
        return server, server.add_secure_port(address, credentials)

    def _on_loop(self, awaitable: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _settled() -> None:
    """Waits for the loop's other tasks: after the server has stopped, gRPC's tasks still clean up calls.

    A task that is pending when the loop ends would be destroyed, with a traceback in the log.
    """
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=SETTLE_TIMEOUT_S)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


class _Router(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, handlers: Handlers, loop: asyncio.AbstractEventLoop) -> None:
        self._methods: dict[str, Any] = {}
        for path, unary in handlers.unary.items():
            # As a stream of requests: a call of the kind unary_unary that ends without a message is never answered.
            self._methods[path] = grpc.stream_unary_rpc_method_handler(_unary(unary, loop))
        for path, stream in handlers.stream.items():
            self._methods[path] = grpc.stream_stream_rpc_method_handler(_stream(stream, loop))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(handler_call_details.method)


class _AioCall:
    """A Call that puts its messages and status into a queue, which its coroutine on the loop sends."""

    runs_inline = False

    def __init__(self, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        self.metadata: Mapping[str, str] = {
            key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
        }
        remaining_s = context.time_remaining()
        self.deadline_s = None if remaining_s is None else time.monotonic() + remaining_s
        self.outbox: asyncio.Queue[bytes | Status] = asyncio.Queue()
        self._loop = loop
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)
        if self._cancelled:
            self.cancel()

    def cancel(self) -> None:
        self._cancelled = True
        while self._callbacks:
            self._callbacks.pop()()

    def end(self) -> None:
        """Forgets how to cancel the call. Otherwise its message would stay in memory until the next garbage collection."""
        self._callbacks.clear()

    def send(self, message: bytes) -> None:
        self._put(message)

    def finish(self, status: Status = OK) -> None:
        self._put(status)

    def _put(self, answer: bytes | Status) -> None:
        with suppress(RuntimeError):  # the loop and all its calls have ended
            self._loop.call_soon_threadsafe(self.outbox.put_nowait, answer)


def _unary(
    handler: UnaryHandler, loop: asyncio.AbstractEventLoop
) -> Callable[[AsyncIterator[bytes], Context], Awaitable[bytes]]:
    async def respond(requests: AsyncIterator[bytes], context: Context) -> bytes:
        request = await context.read()  # the iterator would keep the message as long as the call
        if not isinstance(request, bytes):  # the end of the client's messages
            await _abort(context, NO_MESSAGE)
            return b""  # for the type checker: abort raises
        call = _AioCall(context, loop)
        try:
            handler(call, request)
        except BaseException:  # otherwise it would end the loop, or the client would see its text
            call.finish(handler_failed())
        del request  # it may be large
        try:
            answer = await call.outbox.get()
            if isinstance(answer, bytes):
                return answer
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            call.end()
        await _abort(context, answer)
        return b""  # for the type checker: abort raises

    return respond


def _stream(
    handler: StreamHandler, loop: asyncio.AbstractEventLoop
) -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
    async def respond(requests: AsyncIterator[bytes], context: Context) -> None:
        call = _AioCall(context, loop)
        window = asyncio.Semaphore(STREAM_WINDOW)
        reader = loop.create_task(_read(requests, handler, call, window))
        try:
            while isinstance(answer := await call.outbox.get(), bytes):
                await context.write(answer)
                window.release()
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            reader.cancel()
        call.cancel()  # cancels what the handler still runs for this call
        if answer.code is not grpc.StatusCode.OK:
            await _abort(context, answer)

    return respond


async def _read(requests: AsyncIterator[bytes], handler: StreamHandler, call: _AioCall, window: asyncio.Semaphore) -> None:
    try:
        receiver = handler(call)
        await window.acquire()
        async for request in requests:
            receiver.message(request)
            await window.acquire()
        receiver.half_closed()
    except asyncio.CancelledError:
        raise
    except BaseException:
        call.finish(handler_failed())


async def _abort(context: Context, status: Status) -> None:
    await context.abort(status.code, status.details, status.trailing_metadata)
