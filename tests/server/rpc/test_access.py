"""Who may call what."""

import grpc
import pytest
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS
from turnout_server.rpc import health, reflection
from turnout_server.rpc.access import Access, role_of
from turnout_server.rpc.tokens import ROLES, Role, Tokens, digest_of
from turnout_server.transport.base import Call

from tests.server.fakes import FakeCall

TOKEN = "0123456789abcdef"
LOG, TRACE = METHODS["LogSettings"].path, METHODS["TraceSetting"].path
CHANGE = pb.LogSettingsRequest()
CHANGE.settings["log_error"].bool_param = False
RESET = pb.TraceSettingRequest(model_name="m")
RESET.settings["trace_level"].SetInParent()

EXPECTED: dict[str, Role | None] = {
    "ServerLive": None,
    "ServerReady": None,
    "ServerMetadata": "read",
    "ModelReady": "read",
    "ModelMetadata": "read",
    "ModelConfig": "read",
    "ModelStatistics": "read",
    "ModelInfer": "infer",
    "ModelStreamInfer": "infer",
    "RepositoryIndex": "read",
    "RepositoryModelLoad": "control",
    "RepositoryModelUnload": "control",
    "SystemSharedMemoryStatus": "read",
    "SystemSharedMemoryRegister": "infer",
    "SystemSharedMemoryUnregister": "infer",
    "CudaSharedMemoryStatus": "read",
    "CudaSharedMemoryRegister": "infer",
    "CudaSharedMemoryUnregister": "infer",
    "TraceSetting": "read",
    "LogSettings": "read",
}


def bearing(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def access(*roles: Role) -> Access:
    """Access of a server with one token of these roles."""
    tokens: Tokens = {digest_of(TOKEN): frozenset(roles)}
    return Access(lambda: tokens)


def code(access: Access, path: str, metadata: dict[str, str]) -> str:
    status = access.refusal(path, metadata)
    return "OK" if status is None else status.code.name


def test_every_rpc_needs_the_role_that_is_written_down() -> None:
    assert {name: role_of(method.path) for name, method in METHODS.items()} == EXPECTED


def test_probes_need_no_token_reflection_reads_and_what_is_not_listed_controls() -> None:
    assert role_of(health.CHECK) is None
    assert role_of(health.WATCH) is None
    assert {role_of(path) for path in reflection.PATHS} == {"read"}
    assert role_of("/inference.GRPCInferenceService/Added") == "control"


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("role", ROLES)
def test_a_token_is_good_for_the_rpcs_of_its_role_only(name: str, role: Role) -> None:
    allowed = EXPECTED[name] in (None, role) or (role == "control" and name in ("LogSettings", "TraceSetting"))
    assert code(access(role), METHODS[name].path, bearing(TOKEN)) == ("OK" if allowed else "PERMISSION_DENIED")


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"authorization": ""},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer "},
        bearing(TOKEN[:-1]),
        bearing(TOKEN + "0"),
        bearing(TOKEN.upper()),
        {"Authorization-": f"Bearer {TOKEN}"},
    ],
    ids=str,
)
def test_a_missing_or_wrong_token_is_unauthenticated_and_not_repeated(metadata: dict[str, str]) -> None:
    status = access("infer").refusal(METHODS["ModelInfer"].path, metadata)
    assert status is not None
    assert status.code is grpc.StatusCode.UNAUTHENTICATED
    assert TOKEN.lower()[:-1] not in status.details.lower()


def test_the_scheme_may_be_written_in_either_case() -> None:
    assert code(access("infer"), METHODS["ModelInfer"].path, {"authorization": f"bearer {TOKEN}"}) == "OK"


def test_renewed_tokens_count_at_once() -> None:
    tokens: dict[bytes, frozenset[Role]] = {}
    renewed = Access(lambda: tokens)
    assert code(renewed, METHODS["ModelInfer"].path, bearing(TOKEN)) == "UNAUTHENTICATED"
    tokens[digest_of(TOKEN)] = frozenset({"infer"})
    assert code(renewed, METHODS["ModelInfer"].path, bearing(TOKEN)) == "OK"


@pytest.mark.parametrize("name", METHODS)
def test_without_tokens_no_call_is_refused_by_its_path(name: str) -> None:
    assert not Access().restricted
    assert code(Access(), METHODS[name].path, {}) == "OK"


@pytest.mark.parametrize(("path", "message"), [(LOG, CHANGE), (TRACE, RESET)], ids=["log", "trace"])
@pytest.mark.parametrize(
    ("access", "expected"),
    [
        pytest.param(Access(), "UNIMPLEMENTED", id="nobody is let"),
        pytest.param(Access(control=True), "OK", id="everybody is let"),
        pytest.param(access("control"), "OK", id="its token is let"),
        pytest.param(access("read"), "PERMISSION_DENIED", id="its token is not let"),
    ],
)
def test_changes_of_settings_reach_only_those_who_may_control(
    path: str, message: pb.LogSettingsRequest | pb.TraceSettingRequest, access: Access, expected: str
) -> None:
    assert handled(access, path, message.SerializeToString()) == expected


@pytest.mark.parametrize("access", [Access(), access("read")], ids=["no tokens", "a token that reads"])
@pytest.mark.parametrize("message", [b"", pb.TraceSettingRequest(model_name="m").SerializeToString(), b"\xff\xff"], ids=str)
def test_settings_may_be_read(access: Access, message: bytes) -> None:
    assert handled(access, TRACE, message) == "OK"


def test_other_handlers_stay_as_they_are() -> None:
    handlers = {METHODS["ModelInfer"].path: lambda call, message: None}
    assert Access().guarded(handlers) == handlers


def handled(access: Access, path: str, message: bytes) -> str:
    """OK if the message reaches its handler, else the status with which the call ends."""
    reached: list[bytes] = []

    def handle(call: Call, message: bytes) -> None:
        reached.append(message)

    call = FakeCall(bearing(TOKEN))
    access.guarded({path: handle})[path](call, message)
    return "OK" if reached == [message] else call.ended[0].code.name
