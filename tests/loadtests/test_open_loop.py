import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import cast

import grpc
import numpy as np
import pytest
from turnout_loadtests import open_loop
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.open_loop import Source, arrivals_s, send_poisson
from turnout_loadtests.payloads import infer_request
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

SLOW_S = 0.5  # of the fake server's device `slow`
ROW = {"x": np.zeros((1, 4), np.float32)}


def source(device: str, rate_per_s: float) -> Source:
    return Source(device, [infer_request("add", ROW, device)], rate_per_s)


class FakeCall:
    """A call that ends when it is created, or never."""

    def __init__(self, *, ends: bool) -> None:
        self._ends = ends

    def add_done_callback(self, on_end: Callable[["FakeCall"], None]) -> None:
        if self._ends:
            on_end(self)

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def result(self) -> pb.ModelInferResponse:
        return pb.ModelInferResponse()


class FakeStub:
    """Takes some time to send a request, and remembers which were sent."""

    def __init__(self, *, send_s: float = 0.0, ends: bool = True) -> None:
        self.ModelInfer = self
        self.sent: list[pb.ModelInferRequest] = []
        self._send_s = send_s
        self._ends = ends

    def future(self, request: pb.ModelInferRequest, timeout: float) -> FakeCall:
        self.sent.append(request)
        time.sleep(self._send_s)
        return FakeCall(ends=self._ends)

    def as_stub(self) -> Stub:
        return cast("Stub", self)


def test_arrivals_have_the_rate_of_their_source() -> None:
    moments_s = arrivals_s(50.0, 200.0, "1")

    assert len(moments_s) == pytest.approx(50 * 200, rel=0.05)
    assert moments_s == sorted(moments_s)
    assert 0 <= moments_s[0] < moments_s[-1] < 200


def test_the_gaps_of_a_poisson_process_vary_as_much_as_they_last() -> None:
    gaps_s = np.diff(arrivals_s(50.0, 200.0, "1"))

    assert gaps_s.std() == pytest.approx(gaps_s.mean(), rel=0.05)


def test_equal_seeds_give_equal_moments_and_others_give_others() -> None:
    def due_s(seed: int) -> list[float]:
        return [each.due_s for each in send_poisson(FakeStub().as_stub(), [source("cpu", 200.0)], 0.2, 1.0, seed)]

    assert due_s(1) == due_s(1) != due_s(2)


def test_sources_of_equal_rate_do_not_send_at_the_same_moments() -> None:
    outcomes = send_poisson(FakeStub().as_stub(), [source("cpu", 200.0), source("auto", 200.0)], 0.2, 1.0)
    due_s = [each.due_s for each in outcomes]

    assert {each.source for each in outcomes} == {"cpu", "auto"}
    assert due_s == sorted(set(due_s))


def test_a_source_sends_its_requests_in_turn() -> None:
    stub = FakeStub()
    requests = [infer_request("add", ROW, device) for device in ("a", "b", "c")]

    send_poisson(stub.as_stub(), [Source("all", requests, 100.0)], 0.2, 1.0)

    assert len(stub.sent) > 3
    assert stub.sent == [requests[number % 3] for number in range(len(stub.sent))]


def test_latency_counts_from_when_a_request_was_due_not_from_when_it_was_sent() -> None:
    send_s = 0.02

    outcomes = send_poisson(FakeStub(send_s=send_s).as_stub(), [source("cpu", 500.0)], 0.1, 1.0)

    for number, each in enumerate(outcomes, 1):  # sending takes longer than the gaps, so each is later than the one before
        assert each.latency_s >= number * send_s - each.due_s


def test_slow_answers_do_not_delay_the_requests_after_them(stub: Stub) -> None:
    sources, began_s = [source("slow", 40.0)], time.monotonic()

    outcomes = send_poisson(stub, sources, 0.5, 5.0)

    one_by_one_s = len(outcomes) * SLOW_S
    assert time.monotonic() - began_s < one_by_one_s / 3
    assert all(each.latency_s > SLOW_S for each in outcomes)
    quick = send_poisson(FakeStub().as_stub(), sources, 0.5, 5.0)
    assert [each.due_s for each in outcomes] == [each.due_s for each in quick]


def test_every_request_has_an_outcome_with_its_status(stub: Stub) -> None:
    sources = [source(device, 50.0) for device in ("cpu", "failing", "cuda", "slow")]

    outcomes = send_poisson(stub, sources, 0.5, 0.9 * SLOW_S)

    codes = {name: {each.code for each in outcomes if each.source == name} for name in ("cpu", "failing", "cuda", "slow")}
    assert codes == {
        "cpu": {"OK"},
        "failing": {"RESOURCE_EXHAUSTED"},
        "cuda": {"FAILED_PRECONDITION"},
        "slow": {"DEADLINE_EXCEEDED"},
    }
    due = send_poisson(FakeStub().as_stub(), sources, 0.5, 5.0)
    assert Counter(each.source for each in outcomes) == Counter(each.source for each in due)


def test_an_answer_says_where_it_ran_and_for_how_long(stub: Stub) -> None:
    for each in send_poisson(stub, [source("cpu", 50.0)], 0.2, 5.0):
        assert (each.device, each.route_reason) == ("cpu", "")
        assert each.predicted_us == 0
        assert 2000 <= each.actual_us < 50_000


@pytest.fixture
def missing(closed_port: int) -> Iterator[Stub]:
    with grpc.insecure_channel(f"127.0.0.1:{closed_port}") as channel:
        yield Stub(channel)


def test_without_a_server_every_request_fails(missing: Stub) -> None:
    assert {each.code for each in send_poisson(missing, [source("cpu", 50.0)], 0.2, 5.0)} == {"UNAVAILABLE"}


def test_a_request_without_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "GRACE_S", 0.1)

    with pytest.raises(LoadTestError, match=r"had not ended 0\.1 s after its deadline of 0\.05 s"):
        send_poisson(FakeStub(ends=False).as_stub(), [source("cpu", 50.0)], 0.2, 0.05)
