"""Tests which transport is selected, and when it falls back to the slower one."""

from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]
from turnout_server.core.errors import FailedPrecondition
from turnout_server.transport import completion_queue_calls, selection
from turnout_server.transport.aio import AioTransport
from turnout_server.transport.base import Handlers
from turnout_server.transport.completion_queue import NEEDED, CompletionQueueTransport
from turnout_server.transport.limits import NO_LIMITS, Limits


def test_the_supported_grpcio_uses_the_completion_queue(caplog: pytest.LogCaptureFixture) -> None:
    assert selection.choose("auto") is CompletionQueueTransport
    assert selection.choose("completion-queue") is CompletionQueueTransport
    assert selection.choose("aio") is AioTransport
    assert caplog.records == []


@pytest.mark.parametrize("name", NEEDED)
def test_a_grpcio_that_lacks_a_name_falls_back_to_aio_with_one_warning(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(cygrpc, name)
    assert selection.choose("auto") is AioTransport
    (warning,) = [record.getMessage() for record in caplog.records if record.name == selection.__name__]
    assert name in warning
    assert "grpc.aio" in warning


def test_a_grpcio_whose_calls_never_end_falls_back_to_aio_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(selection, "CHECK_TIMEOUT_S", 0.2)
    monkeypatch.setattr(completion_queue_calls, "_NO_FLAGS", "not a number")
    assert selection.choose("auto") is AioTransport
    (warning,) = [record.getMessage() for record in caplog.records if record.name == selection.__name__]
    assert "DEADLINE_EXCEEDED" in warning


def test_an_explicit_completion_queue_that_does_not_work_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cygrpc, "Server")
    with pytest.raises(FailedPrecondition, match="--transport=aio"):
        selection.choose("completion-queue")


def test_both_transports_pass_the_check() -> None:
    for transport in (CompletionQueueTransport, AioTransport):
        selection.check(transport)


def test_a_transport_with_wrong_answers_fails_the_check() -> None:
    def wrong(
        address: str,
        handlers: Handlers,
        options: Sequence[tuple[str, Any]],
        credentials: grpc.ServerCredentials | None = None,
        limits: Limits = NO_LIMITS,
    ) -> CompletionQueueTransport:
        swapped = Handlers({"/check/Unary": lambda call, _: handlers.unary["/check/Unary"](call, b"?")}, handlers.stream)
        return CompletionQueueTransport(address, swapped, options, credentials)

    with pytest.raises(RuntimeError, match="answered"):
        selection.check(wrong)
