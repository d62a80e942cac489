"""Where a model comes from: a Python factory named on the command line.

Importing and calling it runs third-party code with all the rights of the user who exports.
"""

import ast
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from turnout_exporter.errors import SourceError, SpecError


@dataclass(frozen=True)
class Source:
    """A function or class that returns the model: `module:attr` or `file.py:attr`."""

    module: str
    attr: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses SOURCE.

        Raises:
            SpecError: it has another form, or names a file that doesn't exist.
        """
        module, _, attr = text.rpartition(":")
        if not module or not attr.isidentifier():
            raise SpecError(f"source {text!r} names no factory: write module:attr or file.py:attr")
        if module.endswith(".py") and not Path(module).is_file():
            raise SpecError(f"source {text!r}: there is no file {module}")
        return cls(module, attr)

    def __str__(self) -> str:
        return f"{self.module}:{self.attr}"

    @property
    def public(self) -> str:
        """The reference without paths of this machine: a path outside the current folder is cut to the file's name."""
        outside = Path(self.module).is_absolute() or ".." in Path(self.module).parts
        return f"{Path(self.module).name}:{self.attr}" if outside else str(self)

    def load(self) -> tuple[Callable[..., Any], Path | None]:
        """Imports the factory; returns it, and the file that defines it, if there is one.

        Raises:
            SourceError: the module fails to import, or has no such function or class.
        """
        try:
            module = _import_file(Path(self.module)) if self.module.endswith(".py") else _import_module(self.module)
        except Exception as error:  # the user's code may raise anything
            raise SourceError(f"{self.module} can't be imported: {type(error).__name__}: {error}") from error
        factory = getattr(module, self.attr, None)
        if not callable(factory):
            raise SourceError(f"{self.module} has no function or class {self.attr!r}; it has {_callables(module)}")
        return factory, Path(module.__file__) if module.__file__ else None

    def call(self, kwargs: dict[str, Any]) -> tuple[Any, Path | None]:
        """What the factory returns for these arguments, and the file that defines it.

        Raises:
            SourceError: it can't be imported, or it raises.
        """
        factory, file = self.load()
        try:
            return factory(**kwargs), file
        except Exception as error:  # the user's code may raise anything
            arguments = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
            raise SourceError(f"{self}({arguments}) raised {type(error).__name__}: {error}") from error


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


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    """Imports a file as `python file.py` does: it can import the files beside it."""
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(f"_source_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _callables(module: ModuleType) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    ]
    return ", ".join(own) or "none"
