"""How devices are written: `cpu`, `cuda`, `cuda:1`, `auto`, or an order of preference such as `cuda,cpu`."""

import re
from collections.abc import Collection

AUTO = "auto"
#: Kinds of device that Turnout knows by itself; a declared device may be of another. A bare kind means any device of it.
KINDS = ("cpu", "cuda", "tensorrt", "openvino", "migraphx", "coreml")
#: Those whose label, if it is a number, is that of a GPU.
GPU_KINDS = ("cuda", "tensorrt", "migraphx")

_NAME = re.compile(r"([a-z][a-z0-9_-]{0,31})(:[a-z0-9._-]{1,32})?")
_LONGEST = 1024


def kind_of(name: str) -> str:
    """The part of a device's name before the colon."""
    return name.partition(":")[0]


def number_of(name: str) -> int:
    """The label of a device as a number; 0 if it isn't one."""
    label = name.partition(":")[2]
    return int(label) if label.isdecimal() else 0


def is_device_name(name: str) -> bool:
    """Whether this could be a device's name, or a kind's, that somebody declares."""
    return _NAME.fullmatch(name) is not None and kind_of(name) != AUTO


def entries_of(value: str, declared: Collection[str] = ()) -> list[str]:
    """The entries of a `device` value, in their order.

    Args:
        declared: kinds that there are besides those of KINDS.

    Raises:
        ValueError: an entry is neither `auto`, a kind, nor `kind:label`; the text names it.
    """
    if len(value) > _LONGEST:
        raise ValueError(f"a device value of {len(value)} characters is too long, at most {_LONGEST} are read")
    entries = [entry.strip() for entry in value.split(",")]
    for entry in entries:
        known = is_device_name(entry) and (kind_of(entry) in KINDS or kind_of(entry) in declared)
        if entry != AUTO and not known:
            raise ValueError(f"unknown device '{entry[:64]}'")
    return entries
