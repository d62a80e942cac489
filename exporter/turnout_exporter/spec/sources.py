"""What is exported: Python code that makes a model, an exported program, a Hugging Face folder, or an ONNX file.

Only the argument is read here; nothing is imported or run.
"""

import ast
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from turnout_exporter.errors import SpecError


class Kind(StrEnum):
    """How a source is loaded."""

    PYTHON = "python"
    PROGRAM = "program"
    PRETRAINED = "pretrained"
    ONNX = "onnx"


_KERAS = "a Keras file: convert it with model.export(file, format='onnx') and give the .onnx file"
_PICKLE = "a pickle, which runs code when it is loaded: convert the model with skl2onnx or onnxmltools and give the .onnx file"
_CAFFE = "a Caffe file, for which no converter is maintained any more: rebuild the model in PyTorch and copy its weights"
_OTHER_FILES = {
    ".safetensors": "weights without a model: name the class or function that makes the model as SOURCE, and pass this file to "
    "--weights",
    ".h5": _KERAS,
    ".keras": _KERAS,
    ".pb": "a TensorFlow file: convert its SavedModel with tf2onnx and give the .onnx file",
    ".tflite": "a TensorFlow Lite file: convert it with tf2onnx (--tflite) and give the .onnx file",
    ".pkl": _PICKLE,
    ".joblib": _PICKLE,
    ".caffemodel": _CAFFE,
    ".prototxt": _CAFFE,
}
_TORCH_FILES = (".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        place: a module, a Python file, a .pt2 or .onnx file, or a folder.
        attr: the attribute of a module or Python file, with dots for an attribute of a class; else empty.
    """

    kind: Kind
    place: str
    attr: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses SOURCE.

        Raises:
            SpecError: it has no known form, or names a file that doesn't exist or is something else.
        """
        path = Path(text)
        if path.suffix in (".onnx", ".pt2"):
            _check_file(path, text)
            return cls(Kind.ONNX if path.suffix == ".onnx" else Kind.PROGRAM, text)
        if (path / "config.json").is_file():
            return cls(Kind.PRETRAINED, text)
        if path.exists() and path.suffix != ".py":
            raise SpecError(f"source {text!r} is {_other_content(path)}")
        return cls(Kind.PYTHON, *_reference(text, "source", "class, function or model"))

    def __str__(self) -> str:
        return f"{self.place}:{self.attr}" if self.attr else self.place

    @property
    def public(self) -> str:
        """The reference without paths of this machine: a path outside the current folder is cut to the file's name."""
        outside = Path(self.place).is_absolute() or ".." in Path(self.place).parts
        place = Path(self.place).name if outside else self.place
        return f"{place}:{self.attr}" if self.attr else place


@dataclass(frozen=True)
class Function:
    """A function of the user's: `module:attr` or `file.py:attr`."""

    place: str
    attr: str

    @classmethod
    def parse(cls, text: str, option: str) -> Self:
        """Parses the value of an option that names a function.

        Raises:
            SpecError: it has another form, or names a file that doesn't exist.
        """
        return cls(*_reference(text, option, "function"))

    def __str__(self) -> str:
        return f"{self.place}:{self.attr}"


def parse_kwarg(text: str) -> tuple[str, Any]:
    """Parses one `--kwarg`: the value is a Python literal, or text if it isn't one.

    Raises:
        SpecError: it isn't `name=value`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise SpecError(f"kwarg {text!r} can't be read: write name=value, for example layers=2")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _reference(text: str, what: str, noun: str) -> tuple[str, str]:
    place, _, attr = text.rpartition(":")
    if place.endswith(".py") or text.endswith(".py"):
        _check_file(Path(place or text), text)
    if not place or not all(part.isidentifier() for part in attr.split(".")):
        raise SpecError(f"{what} {text!r} names no {noun}: write module:attr or file.py:attr")
    return place, attr


def _check_file(path: Path, text: str) -> None:
    if not path.is_file():
        raise SpecError(f"source {text!r}: there is no file {path}")


def _other_content(path: Path) -> str:
    """What a file is that isn't a source, and what to do with it."""
    if path.is_dir():
        saved_model = (path / "saved_model.pb").exists()
        return _OTHER_FILES[".pb"] if saved_model else "a folder without config.json, which says how to load its model"
    if path.suffix in _TORCH_FILES:
        return _torch_content(path)
    return _OTHER_FILES.get(
        path.suffix, "a file of a kind that can't be exported; write module:attr, file.py:attr, or a .pt2 or .onnx file"
    )


def _torch_content(path: Path) -> str:
    """What torch wrote into a file, told by the names in its archive alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        names = []
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            "a TorchScript file, which can't be exported: name the class or function that makes the model as SOURCE, or save "
            "it with torch.export.save to a .pt2 file"
        )
    return (
        "a file of torch.save: weights, or a pickled model, whose loading would run any code in it. Name the class or "
        "function that makes the model as SOURCE, and pass its state dict to --weights"
    )
