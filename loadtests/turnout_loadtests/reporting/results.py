"""The results of a comparison and their files: results.json, from which every report is rendered, and cells.csv."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from turnout_loadtests.environment import Environment
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.judging.agreement import Agreement
from turnout_loadtests.judging.answer import Answer
from turnout_loadtests.judging.cells import INVALID, Cell
from turnout_loadtests.judging.comparisons import Comparison
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.judging.summaries import Summary
from turnout_loadtests.judging.validity import Floor
from turnout_loadtests.measuring.devices import DeviceFacts

SCHEMA_VERSION = 2

UNAVAILABLE, FAILED, NOT_REACHED = "unavailable", "failed", "not reached"

Built = TypeVar("Built")
#: Fields that results of an older Turnout don't have.
_WITH_DEFAULT = ("model_hashes", "dropped", "overloaded", "hardware")


@dataclass(frozen=True)
class Gap:
    """What wasn't measured, and the server's reason.

    Attributes:
        device, batch: empty and 0 if it is about all of them.
        kind: `unavailable` (the machine doesn't have it), `failed`, or `not reached`.
    """

    model: str
    device: str
    batch: int
    kind: str
    reason: str

    @property
    def what(self) -> str:
        """What it is about, as text."""
        device = f" on {self.device}" if self.device else ""
        return f"{self.model}{device}{f', batch {self.batch}' if self.batch else ''}"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one model, in a sentence or two."""

    model: str
    sentence: str


@dataclass(frozen=True)
class Machine:
    """Where and when results come from.

    Attributes:
        environment: of the machine that sent, which is the server's as well if `local`.
        idle_w: power of `gpu` and `cpu` without load, where it was measured.
        floor: None if it couldn't be measured.
        pinned: whether senders and server had cores of their own.
        model_hashes: the first digits of each model file's SHA-256, where the repository is known.
    """

    number: int
    command: str
    started: str
    took_s: float
    server: str
    local: bool
    pinned: bool
    processes: int
    environment: Environment
    floor: Floor | None
    idle_w: dict[str, float]
    model_hashes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """The contents of results.json; a reader ignores fields that it doesn't know.

    Attributes:
        complete: whether the comparison came to its end.
        machines: the one that was measured, and those whose results were merged.
        prices: what the user stated, also of devices that weren't measured.
    """

    schema_version: int
    turnout_version: str
    complete: bool
    profile: str
    says_not: str
    target_ms: float | None
    loads_per_s: list[float]
    models: list[str]
    devices: list[str]
    machines: list[Machine]
    facts: dict[str, list[DeviceFacts]]
    gaps: list[Gap]
    cells: list[Cell]
    summaries: list[Summary]
    capacities: list[Capacity]
    agreements: list[Agreement]
    prices: dict[str, float]
    comparisons: list[Comparison]
    answers: list[Answer]
    verdicts: list[Verdict]

    def unusable(self) -> list[Summary]:
        """The experiments without a usable number."""
        return [summary for summary in self.summaries if summary.state == INVALID]

    def facts_of(self, model: str, device: str) -> DeviceFacts:
        """What is known of a device that runs a model."""
        return next((facts for facts in self.facts.get(model, []) if facts.name == device), DeviceFacts(device))


def write(results: Results, folder: Path) -> None:
    """Writes results.json and cells.csv; a reader never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / ".results.json.part"
    unfinished.write_text(json.dumps(asdict(results), indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / "results.json")
    write_cells(results.cells, folder / "cells.csv")


def write_cells(cells: Sequence[Cell], path: Path) -> None:
    """Writes a table with one row for each cell."""
    rows = [_flat(asdict(cell)) for cell in cells]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, names or [each.name for each in fields(Cell)])
        table.writeheader()
        table.writerows(rows)


def read(path: Path) -> Results:
    """The results in a results.json.

    Raises:
        LoadTestError: the file isn't one, or another Turnout wrote it.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["schema_version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LoadTestError(f"{path}: not a results.json of a load test ({error})") from error
    if version != SCHEMA_VERSION:
        raise LoadTestError(f"{path} has schema_version {version}; this Turnout reads {SCHEMA_VERSION}")
    try:
        return _build(Results, values)
    except (KeyError, TypeError, AttributeError) as error:
        raise LoadTestError(f"{path}: a field of schema_version {version} is missing or malformed ({error})") from error


def _build(kind: type[Built], values: dict[str, Any]) -> Built:
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind) if each.name in values or each.name not in _WITH_DEFAULT]  # type: ignore[arg-type]
    return kind(**{name: _value(hints[name], values[name]) for name in known})


def _value(hint: Any, value: Any) -> Any:
    """The value that a type hint describes, from what JSON has for it."""
    origin, inner = get_origin(hint), get_args(hint)
    if value is None:
        return None
    if origin in (Union, UnionType):
        return _value(next(each for each in inner if each is not type(None)), value)
    if is_dataclass(hint):
        return _build(hint, value)  # type: ignore[arg-type]
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return hint(*value)
    if origin is list:
        return [_value(inner[0], item) for item in value]
    if origin is tuple:
        return tuple(value)
    if origin is dict:
        return {key: _value(inner[1], item) for key, item in value.items()}
    return value


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A cell's values as fields of a spreadsheet; those of a part have its name before their own."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and name in _PARTS:
            flat |= _flat(value, f"{name}_")
        elif isinstance(value, dict):
            flat[prefix + name] = " ".join(f"{key}={count}" for key, count in value.items())
        elif isinstance(value, list):
            flat[prefix + name] = "; ".join(str(item) for item in value)
        else:
            flat[prefix + name] = value
    return flat


#: The fields of a cell that are records themselves.
_PARTS = ("service", "response", "server", "client", "machine", "gpu", "cpu")
