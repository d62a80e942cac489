"""The transport on grpc.aio: uses only public interfaces, but every call goes through an event loop."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import grpc.aio

from turnout_server.transport.addresses import may_share, require_free
from turnout_server.transport.base import (
    NO_MESSAGE,
    NO_RETRY,
    OK,
    STREAM_WINDOW,
    Handlers,
    Status,
    StreamHandler,
    UnaryHandler,
    handler_failed,
)
from turnout_server.transport.in_flight import COUNTED_BYTES, InFlight
from turnout_server.transport.limits import DRAIN_STALL_S, NO_LIMITS, Limits

Context = grpc.aio.ServicerContext[Any, Any]

#: After the server has stopped, the loop's remaining tasks need only an iteration or two.
SETTLE_TIMEOUT_S = 1.0


class AioTransport:
    """Runs `handlers` on an event loop in its own thread.

    Args:
        address: as `addresses.target` returns it; port 0 selects a free one.
        options: gRPC channel arguments.
        credentials: for TLS; None for plain text.
        limits: of these, the bytes in flight; gRPC keeps some others, and there is no public way to end a stalled message.

    Raises:
        OSError: the address can't be bound.
    """

    def __init__(
        self,
        address: str,
        handlers: Handlers,
        options: Sequence[tuple[str, Any]],
        credentials: grpc.ServerCredentials | None = None,
        limits: Limits = NO_LIMITS,
    ) -> None:
        require_free(address, shared=may_share(options))
        self._calls = _Calls(InFlight(limits.in_flight_bytes))
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
            self._on_loop(self._drain(grace_s))
            self._on_loop(_settled())
            self._end_loop()

    async def _drain(self, grace_s: float) -> None:
        """Stops the server; calls whose answers nobody takes are cancelled once all others have ended."""
        stopping = asyncio.ensure_future(self._server.stop(grace_s))
        while not stopping.done():
            await asyncio.wait([stopping], timeout=DRAIN_STALL_S)
            if not self._calls.unanswered and not stopping.done():
                await asyncio.wait([stopping], timeout=DRAIN_STALL_S)
                await self._server.stop(None)
        await stopping

    async def _bind(
        self,
        address: str,
        handlers: Handlers,
        options: Sequence[tuple[str, Any]],
        credentials: grpc.ServerCredentials | None,
    ) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=list(options))
        server.add_generic_rpc_handlers([_Router(handlers, self._loop, self._calls)])
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


class _Calls:
    """What the calls in progress share; used on the loop only.

    Attributes:
        in_flight: counts the bytes of large messages, by client.
        unanswered: calls whose handlers haven't finished.
    """

    def __init__(self, in_flight: InFlight) -> None:
        self.in_flight = in_flight
        self.unanswered = 0

    def refusal(self, context: Context, message: bytes) -> Status | None:
        """How a call ends whose client already holds too much of the server; else None, and the message is counted."""
        if len(message) < COUNTED_BYTES and not self.in_flight.is_tight:
            return None
        if (reason := self.in_flight.refusal(context.peer(), len(message))) is not None:
            return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, NO_RETRY)
        self.hold(context, len(message))
        return None

    @contextmanager
    def sending(self) -> Iterator[None]:
        """While an answer is on its way it is up to the client, and the call doesn't count as unanswered."""
        self.unanswered -= 1
        try:
            yield
        finally:
            self.unanswered += 1

    def hold(self, context: Context, size: int) -> None:
        """Counts a message until the call has ended."""
        if size >= COUNTED_BYTES:
            peer = context.peer()
            self.in_flight.hold(peer, size)
            done: Any = lambda _: self.in_flight.release(peer, size)  # noqa: E731, the stubs want a protocol's class
            context.add_done_callback(done)


class _Router(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, handlers: Handlers, loop: asyncio.AbstractEventLoop, calls: _Calls) -> None:
        self._methods: dict[str, Any] = {}
        self._refusal = handlers.refusal
        for path, unary in handlers.unary.items():
            # As a stream of requests: a call of the kind unary_unary that ends without a message is never answered.
            self._methods[path] = grpc.stream_unary_rpc_method_handler(_unary(unary, loop, calls))
        for path, stream in handlers.stream.items():
            self._methods[path] = grpc.stream_stream_rpc_method_handler(_stream(stream, loop, calls))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if self._refusal is not None:
            metadata = _texts(handler_call_details.invocation_metadata)
            if (status := self._refusal(handler_call_details.method, metadata)) is not None:
                return _refused(status)
        return self._methods.get(handler_call_details.method)


def _texts(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _refused(status: Status) -> Any:
    """A method that ends every call with a status, without reading its messages."""

    async def respond(_: AsyncIterator[bytes], context: Context) -> None:
        await _abort(context, status)

    return grpc.stream_stream_rpc_method_handler(respond)


class _AioCall:
    """A Call that puts its messages and status into a queue, which its coroutine on the loop sends."""

    runs_inline = False

    def __init__(self, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        self.metadata: Mapping[str, str] = _texts(context.invocation_metadata())
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
    handler: UnaryHandler, loop: asyncio.AbstractEventLoop, calls: _Calls
) -> Callable[[AsyncIterator[bytes], Context], Awaitable[bytes]]:
    async def respond(requests: AsyncIterator[bytes], context: Context) -> bytes:
        request = await context.read()  # the iterator would keep the message as long as the call
        if not isinstance(request, bytes):  # the end of the client's messages
            await _abort(context, NO_MESSAGE)
            return b""  # for the type checker: abort raises
        if (refusal := calls.refusal(context, request)) is not None:
            await _abort(context, refusal)
        calls.unanswered += 1
        call = _AioCall(context, loop)
        try:
            handler(call, request)
        except BaseException:  # otherwise it would end the loop, or the client would see its text
            call.finish(handler_failed())
        del request  # it may be large
        try:
            answer = await call.outbox.get()
            if isinstance(answer, bytes):
                calls.hold(context, len(answer))
                return answer
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            calls.unanswered -= 1
            call.end()
        await _abort(context, answer)
        return b""  # for the type checker: abort raises

    return respond


def _stream(
    handler: StreamHandler, loop: asyncio.AbstractEventLoop, calls: _Calls
) -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
    async def respond(requests: AsyncIterator[bytes], context: Context) -> None:
        call = _AioCall(context, loop)
        window = asyncio.Semaphore(STREAM_WINDOW)
        reader = loop.create_task(_read(requests, handler, call, window))
        calls.unanswered += 1
        try:
            while isinstance(answer := await call.outbox.get(), bytes):
                with calls.sending():
                    await context.write(answer)
                window.release()
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            calls.unanswered -= 1
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
