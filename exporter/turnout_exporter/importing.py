"""Imports objects of the user's: factories, models, functions that give samples or metrics.

Importing runs third-party code with all the rights of the user who exports.
"""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from turnout_exporter.errors import SourceError
from turnout_exporter.examination import Draw
from turnout_exporter.spec.points import Point
from turnout_exporter.spec.sources import Function, Source


def load(reference: Source | Function) -> tuple[Any, Path | None]:
    """Imports an object; returns it, and the file that defines it, if there is one.

    Raises:
        SourceError: the module fails to import, or has no such attribute.
    """
    place = reference.place
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except Exception as error:  # the user's code may raise anything
        raise SourceError(f"{place} can't be imported: {type(error).__name__}: {error}") from error
    try:
        found = reduce(getattr, reference.attr.split("."), module)
    except AttributeError:
        raise SourceError(f"{place} has no {reference.attr!r}; it has {_public_names(module)}") from None
    return found, Path(module.__file__) if module.__file__ else None


def load_function(function: Function) -> Callable[..., Any]:
    """Imports a function.

    Raises:
        SourceError: it can't be imported, or can't be called.
    """
    found: Callable[..., Any]
    found, _ = load(function)
    if not callable(found):
        raise SourceError(f"{function} is a {type(found).__name__}, not a function")
    return found


def load_draw(function: Function | None) -> Draw | None:
    """The function that `--samples` names: called with the sizes, and with a seed if it takes a second argument."""
    if function is None:
        return None
    sample = load_function(function)
    takes_seed = len(inspect.signature(sample).parameters) > 1

    def draw(point: Point) -> Mapping[str, Any]:
        try:
            given = sample(dict(point.sizes), point.seed) if takes_seed else sample(dict(point.sizes))
        except Exception as error:  # the user's code may raise anything
            raise SourceError(f"{function} raised {type(error).__name__} at {point.label}: {error}") from error
        if not isinstance(given, Mapping):
            raise SourceError(f"{function} returned a {type(given).__name__}, not a dict of arrays by the inputs' names")
        return given

    return draw


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    """Imports a file as `python file.py` does: it can import the files beside it."""
    sys.path.insert(0, str(path.resolve().parent))
    name = f"_source_{path.stem}"
    if name in sys.modules and sys.modules[name].__file__ == str(path.resolve()):
        return sys.modules[name]  # another option names the same file
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _public_names(module: ModuleType) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return ", ".join(own) or "nothing of its own"
