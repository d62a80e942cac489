"""Steps that write files, and whether an earlier run has done them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """A step that makes files.

    Attributes:
        note: the file that holds the digest of all of them once the step is done.
        inputs: what the step depends on: the content of files, and texts such as a command or a version.
        outputs: the files that it writes.
    """

    note: Path
    inputs: Sequence[Path | str]
    outputs: Sequence[Path]

    def is_done(self) -> bool:
        """Whether the step has run with these inputs, and its outputs are as it left them."""
        there = all(path.is_file() for path in (self.note, *self.outputs))
        return there and self.note.read_text() == self._digest()

    def done(self) -> None:
        """Record that the step has run."""
        self.note.parent.mkdir(parents=True, exist_ok=True)
        self.note.write_text(self._digest())

    def _digest(self) -> str:
        parts = [part.read_bytes() if isinstance(part, Path) else part.encode() for part in (*self.inputs, *self.outputs)]
        return hashlib.sha256("".join(hashlib.sha256(part).hexdigest() for part in parts).encode()).hexdigest()
