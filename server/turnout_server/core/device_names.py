"""The syntax of device names: `cpu`, `cuda`, `cuda:1`, `auto`, or a list of preferences such as `cuda,cpu`."""

import re
from collections.abc import Collection

AUTO = "auto"
#: The built-in kinds of device; settings may declare others. A kind without a label means any device of that kind.
KINDS = ("cpu", "cuda", "tensorrt", "openvino", "migraphx", "coreml")
#: Kinds that a device may be called by without a label, because a machine usually has one.
UNLABELLED_KINDS = ("cpu", "openvino")
#: Kinds whose numeric label is the index of a GPU.
GPU_KINDS = ("cuda", "tensorrt", "migraphx")

_NAME = re.compile(r"([a-z][a-z0-9_-]{0,31})(:[a-z0-9._-]{1,32})?")
_MAX_LENGTH = 1024


def kind_of(name: str) -> str:
    """The kind in a device's name: the part before the colon."""
    return name.partition(":")[0]


def number_of(name: str) -> int:
    """The label of a device as a number; 0 if it isn't numeric."""
    label = name.partition(":")[2]
    return int(label) if label.isdecimal() else 0


def is_device_name(name: str) -> bool:
    """Whether settings may declare a device or a kind of this name."""
    return _NAME.fullmatch(name) is not None and kind_of(name) != AUTO


def entries_of(value: str, declared: Collection[str] = ()) -> list[str]:
    """The entries of a `device` value, in order.

    Args:
        declared: the kinds that settings declare, besides KINDS.

    Raises:
        ValueError: the value is too long, or an entry is neither `auto`, a kind, nor `kind:label`; the text names the entry.
    """
    if len(value) > _MAX_LENGTH:
        raise ValueError(f"a device value of {len(value)} characters is too long, at most {_MAX_LENGTH} are read")
    entries = [entry.strip() for entry in value.split(",")]
    for entry in entries:
        known = is_device_name(entry) and (kind_of(entry) in KINDS or kind_of(entry) in declared)
        if entry != AUTO and not known:
            raise ValueError(f"unknown device '{entry[:64]}'")
    return entries
