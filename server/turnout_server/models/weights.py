"""How much a model's weights take, as its files tell before anything of it is loaded.

What a session takes in all is more, by what its runs need, and isn't known before it has run.
"""

import mmap
from pathlib import Path

#: Files beside a model that are never its weights.
_OTHERS = (".onnx", ".json", ".npz")


def weight_bytes(model: Path) -> int:
    """The bytes of an ONNX file and of the external data that it names; 0 where it can't be read."""
    try:
        size = model.stat().st_size
        beside = [path for path in model.parent.rglob("*") if path.is_file() and path.suffix not in _OTHERS]
        if not size or not beside:
            return size
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            named = [path for path in beside if content.find(str(path.relative_to(model.parent)).encode()) >= 0]
        return size + sum(path.stat().st_size for path in named)
    except OSError:
        return 0
