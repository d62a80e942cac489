"""How devices are written: `cpu`, `cuda`, `cuda:1`, `auto`, or an order of preference such as `cuda,cpu`."""

import re

AUTO = "auto"
#: Kinds of device that Turnout knows; a bare kind means any device of it.
KINDS = ("cpu", "cuda")

_NAME = re.compile(rf"({'|'.join(KINDS)})(:[a-z0-9._-]{{1,32}})?")
_LONGEST = 1024


def kind_of(name: str) -> str:
    """The part of a device's name before the colon."""
    return name.partition(":")[0]


def entries_of(value: str) -> list[str]:
    """The entries of a `device` value, in their order.

    Raises:
        ValueError: an entry is neither `auto`, a kind, nor `kind:label`; the text names it.
    """
    if len(value) > _LONGEST:
        raise ValueError(f"a device value of {len(value)} characters is too long, at most {_LONGEST} are read")
    entries = [entry.strip() for entry in value.split(",")]
    for entry in entries:
        if entry != AUTO and not _NAME.fullmatch(entry):
            raise ValueError(f"unknown device '{entry[:64]}'")
    return entries
