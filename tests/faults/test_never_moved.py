"""A request that names a device runs there or fails, however devices fail and come back."""

from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from turnout_server.core.device_names import kind_of
from turnout_server.core.errors import DeviceLost, FailedPrecondition, Overloaded, ServingError, internal_error
from turnout_server.core.messages import InferResponse

from tests.server.serving.test_dataplane import ROW, Served

NAMES = ("cpu", "cpu:slow", "cuda:0")
ERRORS = (DeviceLost("its process was killed"), Overloaded("no memory"), internal_error(), FailedPrecondition("broken"))

#: What happens next: a device is lost or works again, its next runs fail with these errors, or a request asks for a device.
STEPS = st.one_of(
    st.tuples(st.just("restarts"), st.sampled_from(NAMES), st.booleans()),
    st.tuples(st.just("fails"), st.sampled_from(NAMES), st.lists(st.sampled_from(ERRORS), max_size=2)),
    st.tuples(st.just("asks"), st.sampled_from(["auto", "cpu", "cuda", "cpu:slow", "cuda:0", "cuda:0,cpu", "cpu:slow,auto"])),
)


class Host(Served):
    """A data plane on three devices that fail as the steps say; records on which devices a request was tried."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, *NAMES[1:])
        self.failing: dict[str, list[ServingError]] = {name: [] for name in NAMES}
        self.tried: SimpleQueue[str] = SimpleQueue()
        for name, session in self.sessions.items():
            session.trouble = lambda inputs, name=name: self._run(name)  # type: ignore[misc]
        self.repository.start()

    def _run(self, name: str) -> None:
        self.tried.put(name)
        if self.failing[name]:
            raise self.failing[name].pop()


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_a_request_that_names_a_device_is_never_moved_whatever_fails(steps: list[tuple[str, str, object]]) -> None:
    with TemporaryDirectory() as root:
        host = Host(Path(root))
        try:
            for what, name, *detail in steps:
                if what == "restarts":
                    host.engines[name].trouble = DeviceLost("restarting") if detail[0] else None
                elif what == "fails":
                    host.failing[name] = list(detail[0])  # type: ignore[call-overload]
                else:
                    _check(host, name)
        finally:
            host.stop()


def _check(host: Host, asked: str) -> None:
    working = {name for name, engine in host.engines.items() if engine.unavailable_reason() is None}
    host.infer(device=asked, a=np.ones_like(ROW))
    outcome = host.outcome()
    tried = [host.tried.get() for _ in range(host.tried.qsize())]
    allowed = [name for name in NAMES if _allows(asked, name)]
    assert set(tried) <= set(allowed) & working
    assert len(tried) == len(set(tried)) <= 2  # on no device twice, and moved once at most
    if asked in NAMES:
        assert tried == ([asked] if asked in working else [])
    if isinstance(outcome, InferResponse):
        assert outcome.provenance.device == tried[-1]
        assert (outcome.provenance.route_reason == "retried") == (len(tried) == 2)
    elif not tried:
        assert isinstance(outcome, ServingError)
        assert not working & set(allowed)


def _allows(asked: str, device: str) -> bool:
    """Whether a request with this `device` may run there; an exact name wins over a kind."""
    return any(entry in ("auto", device) or (entry not in NAMES and entry == kind_of(device)) for entry in asked.split(","))
