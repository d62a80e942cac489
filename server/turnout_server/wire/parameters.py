"""Reads the parameters of a request and checks their types."""

from collections.abc import Mapping

from turnout_proto import inference_pb2 as pb

from turnout_server.core.errors import InvalidRequest
from turnout_server.core.suggestions import nearest
from turnout_server.scheduling.routing import OBJECTIVES

Parameters = Mapping[str, pb.InferParameter]

#: The parameters of requests that have an effect.
OWN = ("device", "objective", "precision", "priority", "timeout")
#: Those that clients of Triton and KServe send, too.
KNOWN = (*OWN, "sequence_id", "sequence_start", "sequence_end", "headers", "binary_data_output")

#: Triton's own keys; all other keys that start with `triton_` are refused, as Triton does.
_RESERVED = ("triton_enable_empty_final_response",)


def check_reserved(parameters: Parameters) -> None:
    """Raises InvalidRequest for a key with the reserved prefix."""
    for key in parameters:
        if key.startswith("triton_") and key not in _RESERVED:
            raise InvalidRequest(
                f"parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting "
                f"with 'triton_' are allowed: {', '.join(_RESERVED)}; got '{key}'"
            )


def misspelled(parameters: Parameters) -> dict[str, str]:
    """The parameters whose names are nearly one of Turnout's, and that name. Like all unknown ones, they have no effect."""
    return {key: meant for key in parameters if key not in KNOWN and (meant := nearest(key, OWN))}


def check_objective(value: str) -> str:
    """Returns `value` if it is empty or one of OBJECTIVES; raises InvalidRequest otherwise."""
    if value and value not in OBJECTIVES:
        raise InvalidRequest(f"unknown objective '{value[:64]}'; there are: {', '.join(OBJECTIVES)}")
    return value


def text(parameters: Parameters, key: str) -> str:
    """The value of a string parameter; empty if it is absent."""
    value = _value(parameters, key, "string_param")
    if value == "" and key in parameters:
        raise InvalidRequest(f"the '{key}' parameter is empty; leave it out or give it a value")
    return str(value or "")


def whole(parameters: Parameters, key: str) -> int | None:
    """The value of an integer parameter >= 0; None if it is absent."""
    value = _value(parameters, key, "int64_param", "uint64_param")
    if value is None:
        return None
    if int(value) < 0:
        raise InvalidRequest(f"the '{key}' parameter must not be negative, got {value}")
    return int(value)


def _value(parameters: Parameters, key: str, *kinds: str) -> str | int | None:
    if key not in parameters:
        return None
    parameter = parameters[key]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in kinds:
        raise InvalidRequest(f"invalid value type for '{key}' parameter, expected {kinds[0]}.")
    value: str | int = getattr(parameter, kind)
    return value
