import csv
import json
from pathlib import Path
from typing import Any

import pytest
from turnout_loadtests import results as files
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.results import Skipped

from tests.loadtests.made import cell, failed_cell, results

MADE = results(cell(), failed_cell(model="other", device="cuda"), skipped=(Skipped("resnet50", "cuda", "no driver"),))


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    files.write(MADE, tmp_path / "new")
    assert files.read(tmp_path / "new" / "results.json") == MADE


def test_fields_of_a_newer_turnout_are_ignored(tmp_path: Path) -> None:
    files.write(MADE, tmp_path)
    path = tmp_path / "results.json"
    values = json.loads(path.read_text())
    values["profiles"] = {}
    values["cells"][0]["power_w"] = 95.0
    path.write_text(json.dumps(values))
    assert files.read(path) == MADE


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "not a results.json"),
        ("[]", "not a results.json"),
        ('{"cells": []}', "not a results.json"),
        ('{"schema_version": 2}', "has schema_version 2; this Turnout reads 1"),
        ('{"schema_version": 1}', "missing or malformed"),
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(LoadTestError, match=complaint):
        files.read(path)


def test_a_spreadsheet_gets_a_row_per_cell(tmp_path: Path) -> None:
    files.write(MADE, tmp_path)
    with (tmp_path / "cells.csv").open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["resnet50", "other"]
    assert rows[0]["service_p99_ms"] == ""
    assert rows[1]["failures_by_code"] == "RESOURCE_EXHAUSTED=800"
    assert rows[1]["flags"] == "no answers; failures"


def test_models_skipped_for_the_same_reason_are_grouped() -> None:
    gaps = (Skipped("a", "cuda", "x"), Skipped("b", "cuda", "x"), Skipped("b", "cpu", "y"))
    assert results(cell(), skipped=gaps).gaps() == {("cuda", "x"): ["a", "b"], ("cpu", "y"): ["b"]}
