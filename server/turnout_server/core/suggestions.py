"""The name that was probably meant by one that doesn't exist, for error texts."""

import difflib
from collections.abc import Iterable
from itertools import islice

#: How alike two names are, from 0 to 1: one letter in six may differ.
ALIKE = 0.8
#: Comparing is slow, and the texts come from clients: longer names, and more of them, aren't looked at.
_MAX_LENGTH, _MAX_NAMES = 128, 256


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like `name`, upper and lower case being the same; empty if none is."""
    if len(name) > _MAX_LENGTH:
        return ""
    by_lower = {other.lower(): other for other in islice(known, _MAX_NAMES) if other != name}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=ALIKE)
    return by_lower[near[0]] if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name; empty if no known one is like it."""
    near = nearest(name, known)
    return f"; did you mean '{near}'?" if near else ""
