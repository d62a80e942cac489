"""Who may call what: the role that each RPC needs, and the token that has it.

Without tokens every client may infer and read; what changes the server for everybody must be enabled. With tokens a client
sends `authorization: Bearer TOKEN`, and each RPC needs one role of that token. Liveness, readiness and health need none,
because probes have no tokens.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError
from turnout_proto.methods import METHODS

from turnout_server.core.errors import PermissionDenied, ServingError, Unauthenticated, Unsupported
from turnout_server.rpc import health
from turnout_server.rpc.handlers import status
from turnout_server.rpc.tokens import Role, Tokens, digest_of
from turnout_server.transport.base import Call, Status, UnaryHandler

_INFER: Final = (
    "ModelInfer",
    "ModelStreamInfer",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
)
_READ: Final = (
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "SystemSharedMemoryStatus",
    "CudaSharedMemoryStatus",
    "TraceSetting",
    "LogSettings",
)
_OPEN: Final = {METHODS["ServerLive"].path, METHODS["ServerReady"].path, health.CHECK, health.WATCH}
#: These show settings to role `read`, and change them for role `control`.
_SETTINGS: Final = ("TraceSetting", "LogSettings")
_ROLES: Final[dict[str, Role]] = {
    **{METHODS[name].path: "infer" for name in _INFER},
    **{METHODS[name].path: "read" for name in _READ},
}
_REFLECTION: Final = "/grpc.reflection."
_SCHEME: Final = "bearer "


class Access:
    """Decides whether a client may make a call. Any thread may call any method.

    Args:
        tokens: returns the tokens in force; None if clients need none.
        control: whether clients without a token may change log and trace settings.
    """

    def __init__(self, tokens: Callable[[], Tokens] | None = None, *, control: bool = False) -> None:
        self._tokens = tokens
        self._control = control

    @property
    def restricted(self) -> bool:
        """Whether `refusal` refuses anything at all."""
        return self._tokens is not None

    def refusal(self, path: str, metadata: Mapping[str, str]) -> Status | None:
        """How a call ends that its client may not make; None if it may. Nothing of its messages is known yet."""
        role = role_of(path)
        if role is None or self._tokens is None:
            return None
        error = _denial(role, metadata, self._tokens())
        if error is not None and path in _SETTING_PATHS and _denial("control", metadata, self._tokens()) is None:
            return None
        return None if error is None else status(error)

    def guarded(self, handlers: Mapping[str, UnaryHandler]) -> dict[str, UnaryHandler]:
        """The same handlers, except that changes of settings are refused to clients that may not control the server."""
        return {
            path: self._guarded(_SETTING_PATHS[path], handler) if path in _SETTING_PATHS else handler
            for path, handler in handlers.items()
        }

    def _guarded(self, request_class: Any, handler: UnaryHandler) -> UnaryHandler:
        def handle(call: Call, message: bytes) -> None:
            error = self._denied_change(call.metadata) if _changes(request_class, message) else None
            if error is None:
                handler(call, message)
            else:
                call.finish(status(error))

        return handle

    def _denied_change(self, metadata: Mapping[str, str]) -> ServingError | None:
        if self._tokens is not None:
            return _denial("control", metadata, self._tokens())
        if self._control:
            return None
        return Unsupported(
            "clients may not change log and trace settings; start the server with --allow-control, "
            "or with --tokens and a token of role 'control'"
        )


def role_of(path: str) -> Role | None:
    """The role that an RPC needs; None if it needs none. One that isn't listed needs `control`."""
    if path in _OPEN:
        return None
    return "read" if path.startswith(_REFLECTION) else _ROLES.get(path, "control")


def _denial(role: Role, metadata: Mapping[str, str], tokens: Tokens) -> ServingError | None:
    """Why a client with this metadata hasn't this role; None if it has."""
    header = metadata.get("authorization", "")
    if not header.lower().startswith(_SCHEME):
        return Unauthenticated("this server needs a token: send the metadata 'authorization: Bearer TOKEN'")
    roles = tokens.get(digest_of(header[len(_SCHEME) :].strip()))
    if roles is None:
        return Unauthenticated("the token isn't one of this server's")
    if role not in roles:
        return PermissionDenied(f"the call needs a token of role '{role}'; this one has {', '.join(sorted(roles))}")
    return None


def _changes(request_class: Any, message: bytes) -> bool:
    """Whether a request for settings changes any; one that can't be read is left to its handler."""
    try:
        return bool(request_class.FromString(message).settings)
    except DecodeError:
        return False


_SETTING_PATHS: Final[dict[str, Any]] = {METHODS[name].path: METHODS[name].request for name in _SETTINGS}
