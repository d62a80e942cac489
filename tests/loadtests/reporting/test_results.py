import csv
import json
from pathlib import Path
from typing import Any

import pytest
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.measuring.devices import DeviceFacts
from turnout_loadtests.quantities import PowerModel
from turnout_loadtests.reporting import results as files
from turnout_loadtests.reporting.results import SCHEMA_VERSION, UNAVAILABLE, Gap

from tests.loadtests.made import Behaviour, World

MADE = World(
    {"cpu": Behaviour(), "cuda": Behaviour(ms=2.0), "broken": Behaviour(fails_share=0.6)},
    facts={"cpu": DeviceFacts("cpu", "cpu", price_per_hour=0.34, price_source="command line", power=PowerModel(20, 95))},
    rounds=3,
    capacities=[Capacity("resnet50", "cpu", 1, 50.0, 80.0, 84.0, 9)],
    gaps=[Gap("resnet50", "tensorrt", 0, UNAVAILABLE, "no such provider")],
    window_s=1.0,
    target_ms=50.0,
).results()


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    files.write(MADE, tmp_path / "new")
    assert files.read(tmp_path / "new" / "results.json") == MADE


def test_fields_of_a_newer_turnout_are_ignored(tmp_path: Path) -> None:
    files.write(MADE, tmp_path)
    path = tmp_path / "results.json"
    values = json.loads(path.read_text())
    values["weather"] = {}
    values["cells"][0]["colour"] = "blue"
    path.write_text(json.dumps(values))
    assert files.read(path) == MADE


def test_results_of_an_older_turnout_lack_what_it_did_not_know(tmp_path: Path) -> None:
    files.write(MADE, tmp_path)
    path = tmp_path / "results.json"
    values = json.loads(path.read_text())
    for each in values["summaries"]:
        del each["dropped"], each["overloaded"]
    for device in values["facts"]["resnet50"]:
        del device["hardware"]
    path.write_text(json.dumps(values))
    assert files.read(path) == MADE


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "not a results.json"),
        ("[]", "not a results.json"),
        ('{"cells": []}', "not a results.json"),
        ('{"schema_version": 1}', f"has schema_version 1; this Turnout reads {SCHEMA_VERSION}"),
        (f'{{"schema_version": {SCHEMA_VERSION}}}', "missing or malformed"),
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(LoadTestError, match=complaint):
        files.read(path)


def test_a_spreadsheet_gets_a_row_for_each_cell(tmp_path: Path) -> None:
    files.write(MADE, tmp_path)
    with (tmp_path / "cells.csv").open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    assert len(rows) == len(MADE.cells)
    assert {row["device"] for row in rows} == {"cpu", "cuda", "broken"}
    broken = next(row for row in rows if row["device"] == "broken")
    assert broken["state"] == "INVALID"
    assert broken["failures_by_code"].startswith("RESOURCE_EXHAUSTED=")
    assert float(next(row for row in rows if row["device"] == "cpu")["service_p50_ms"]) == pytest.approx(10, rel=0.1)


def test_only_experiments_without_usable_rounds_are_unusable() -> None:
    assert {each.key.device for each in MADE.unusable()} == {"broken"}
