"""Where `forward` branches: read from the conditions that torch.export notes."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import sympy
from turnout_exporter.children import Channel
from turnout_exporter.jobs import GuardsJob, ModelJob
from turnout_exporter.pytorch import guards
from turnout_exporter.pytorch.guards import breakpoints
from turnout_exporter.spec import reference
from turnout_exporter.spec.points import Limits, Point
from turnout_exporter.spec.reference import Sample

from tests.exporter import zoo

S, T = sympy.symbols("s t", integer=True, positive=True)
SYMBOLS = {S: "batch", T: "seq"}


def test_the_sizes_around_each_change_are_tried() -> None:
    condition = sympy.Or(S < 17, S > 29)
    assert breakpoints([condition], SYMBOLS, {"batch": 2, "seq": 3}, {"batch": Limits(1, 32)}) == {
        "batch": [16, 17, 18, 29, 30, 31]
    }


def test_a_condition_on_two_sizes_counts_where_the_other_one_is_at_its_base() -> None:
    limits = {"batch": Limits(1, 32), "seq": Limits(1, 64)}
    found = breakpoints([S * T < 20], SYMBOLS, {"batch": 2, "seq": 3}, limits)
    assert found == {"batch": [6, 7, 8], "seq": [9, 10, 11]}


def test_a_condition_that_changes_all_the_time_gives_the_nearest_sizes_only() -> None:
    found = breakpoints([sympy.Eq(sympy.Mod(S, 4), 1)], SYMBOLS, {"batch": 5, "seq": 3}, {"batch": Limits(1, 1000)})["batch"]
    assert len(found) <= 9
    assert {4, 5, 6} <= set(found)


def test_only_allowed_sizes_are_tried() -> None:
    found = breakpoints([S < 100], SYMBOLS, {"batch": 64, "seq": 3}, {"batch": Limits(32, 320, 32)})
    assert found == {"batch": [96, 128, 160]}


def test_a_condition_that_never_changes_or_needs_a_value_gives_nothing() -> None:
    value = sympy.Symbol("u0")
    assert breakpoints([S < 100, value > S], SYMBOLS, {"batch": 2, "seq": 3}, {"batch": Limits(1, 32)}) == {}


@pytest.mark.parametrize(
    ("factory", "sizes"), [("Branch", {"batch": [4, 5, 6]}), ("RareBranch", {"batch": [16, 17, 18]}), ("Linear", {})]
)
def test_a_branch_of_a_model_is_found_and_a_model_without_one_gives_none(
    tmp_path: Path, factory: str, sizes: dict[str, list[int]]
) -> None:
    reference.write(tmp_path / "reference", [Sample(Point({"batch": 2}), {"x": np.ones((2, 4), np.float32)}, {})])
    job = GuardsJob(
        asdict(ModelJob(f"{zoo.__file__}:{factory}")), ["x=float32[batch,4]"], ["output"], {"batch": [1, 32, 1]},
        str(tmp_path / "reference"),
    )  # fmt: skip
    found = guards.run(asdict(job), Channel(lambda _: None))["sizes"]
    assert {dim: found[dim][:3] for dim in found} == sizes
