"""The results of a comparison and their files: results.json, from which every report is rendered, and cells.csv."""

import csv
import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from turnout_loadtests.cells import Cell
from turnout_loadtests.environment import Environment
from turnout_loadtests.errors import LoadTestError

SCHEMA_VERSION = 1

Built = TypeVar("Built")


@dataclass(frozen=True)
class Skipped:
    """A model that wasn't measured on a device, and the server's reason."""

    model: str
    device: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """The verdict on one model, in a sentence or two."""

    model: str
    sentence: str


@dataclass(frozen=True)
class Results:
    """The contents of results.json; a reader ignores fields that it doesn't know."""

    schema_version: int
    turnout_version: str
    command: str
    started: str
    server: str
    environment: Environment
    models: list[str]
    devices: list[str]
    skipped: list[Skipped]
    cells: list[Cell]
    verdicts: list[Verdict]

    def gaps(self) -> dict[tuple[str, str], list[str]]:
        """The models that weren't measured, grouped by device and reason."""
        found: dict[tuple[str, str], list[str]] = {}
        for gap in self.skipped:
            found.setdefault((gap.device, gap.reason), []).append(gap.model)
        return found


def write(results: Results, folder: Path) -> None:
    """Writes results.json and cells.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(asdict(results), indent=2) + "\n", encoding="utf-8")
    with (folder / "cells.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, [field.name for field in fields(Cell)])
        rows.writeheader()
        rows.writerows({name: _as_text(value) for name, value in asdict(cell).items()} for cell in results.cells)


def read(path: Path) -> Results:
    """The results in a results.json.

    Raises:
        LoadTestError: the file isn't one, or a newer Turnout wrote it.
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
    return kind(**{field.name: _value(hints[field.name], values[field.name]) for field in fields(kind)})  # type: ignore[arg-type]


def _value(hint: Any, value: Any) -> Any:
    if is_dataclass(hint):
        return _build(hint, value)  # type: ignore[arg-type]
    if get_origin(hint) is list and is_dataclass(get_args(hint)[0]):
        return [_value(get_args(hint)[0], item) for item in value]
    return value


def _as_text(value: Any) -> Any:
    """A cell's lists and counts as text for one field of a spreadsheet."""
    if isinstance(value, dict):
        return " ".join(f"{key}={count}" for key, count in value.items())
    return "; ".join(value) if isinstance(value, list) else value
