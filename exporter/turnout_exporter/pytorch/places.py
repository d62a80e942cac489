"""Places in the user's code, for messages."""

from collections.abc import Iterable
from pathlib import Path
from traceback import FrameSummary

import torch

_LIBRARIES = Path(torch.__file__).parents[1]
_PACKAGE = Path(__file__).parents[1]
_PLUMBING = {Path(torch.__file__).parent / name for name in ("overrides.py", "_tensor.py")}


def own_place(frames: Iterable[FrameSummary]) -> str:
    """The line that called last, such as ` (model.py:12, if x.max() > 0:)`; empty if it is a library's."""
    calls = [frame for frame in frames if not _is_between(Path(frame.filename))]
    return _text(calls[-1]) if calls and _is_own(calls[-1]) else ""


def last_own_place(frames: Iterable[FrameSummary]) -> str:
    """The user's last line before libraries were called; empty if there is none."""
    own = [frame for frame in frames if _is_own(frame)]
    return _text(own[-1]) if own else ""


def _text(frame: FrameSummary) -> str:
    return f" ({Path(frame.filename).name}:{frame.lineno}, {frame.line})"


def _is_own(frame: FrameSummary) -> bool:
    path = Path(frame.filename)
    return not path.is_relative_to(_LIBRARIES) and not path.is_relative_to(_PACKAGE) and path.is_file()


def _is_between(path: Path) -> bool:
    """Whether it is only in between: the watching of the exporter itself, and torch's methods in Python."""
    return path in _PLUMBING or path == _PACKAGE / "pytorch" / "value_reads.py"
