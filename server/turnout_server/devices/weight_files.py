"""The files that a model is opened from, its weights' among them, and whether they are still the same."""

from dataclasses import dataclass
from pathlib import Path, PurePath

from turnout_server.core.errors import FailedPrecondition
from turnout_server.devices import onnx_graph

#: Of one file: modification time in ns, size in bytes. Not the inode, which some network file systems make up each time.
_State = tuple[int, int]


@dataclass(frozen=True)
class WeightFiles:
    """The files of a model at one moment.

    A session may be opened long after the one that was verified, and by then another model may be in the same place.

    Attributes:
        model: the ONNX file.
        states: of it and of the files that it names; None for one that can't be read.
    """

    model: Path
    states: tuple[tuple[Path, _State | None], ...]

    @classmethod
    def of(cls, model: Path) -> "WeightFiles":
        """The files as they are now. As in ONNX Runtime, external data is where the ONNX file says, below its directory."""
        weights = onnx_graph.weights_of(model)
        named = sorted(weights.files) if weights else []
        return cls(model, _states([model, *(model.parent / name for name in named if _is_below(name))]))

    @property
    def paths(self) -> list[Path]:
        """Those that are there."""
        return [path for path, state in self.states if state]

    @property
    def bytes(self) -> int:
        """The size of all files; 0 if the model can't be read."""
        sizes = [state[1] if state else 0 for _, state in self.states]
        return sum(sizes) if sizes[0] else 0

    def require_unchanged(self) -> None:
        """Returns if every file is still the same.

        Raises:
            FailedPrecondition: one isn't.
        """
        now = _states([path for path, _ in self.states])
        changed = [before[0].name for before, after in zip(self.states, now, strict=True) if before != after]
        if changed:
            raise FailedPrecondition(
                f"{changed[0]} has changed since the model began to load: load it again to serve the new file"
            )


def _is_below(name: str) -> bool:
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts


def _states(paths: list[Path]) -> tuple[tuple[Path, _State | None], ...]:
    return tuple((path, _state(path)) for path in paths)


def _state(path: Path) -> _State | None:
    try:
        found = path.stat()
    except (OSError, ValueError):  # a name may hold anything, NUL among it
        return None
    return found.st_mtime_ns, found.st_size
