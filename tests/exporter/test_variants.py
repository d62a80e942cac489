from pathlib import Path

import pytest
from turnout_exporter.compare import Comparison
from turnout_exporter.errors import SpecError
from turnout_exporter.spec.sources import Function
from turnout_exporter.variants import Rules, Variant, parse_max_error


def variant(name: str = "int8", error: float = 0.01, speedup: float = 2.0, **metric: float) -> Variant:
    return Variant(name, Path("m"), comparisons=[Comparison("p", "y", error, error, 1.0)], speedup=speedup, metric=metric)


@pytest.mark.parametrize(
    ("made", "objection"),
    [
        (variant(), ""),
        (variant(speedup=0.9), "it is no faster: 0.90 times as fast"),
        (variant(speedup=1.01), "it is no faster: 1.01 times as fast"),
        (variant("fp16", speedup=0.9), ""),
        (variant(error=0.2), "its error is 0.2 of the largest value, and 0.1 is allowed (--max-error)"),
        (variant("fp16", error=0.05), "and 0.02 is allowed"),
        (Variant("fp16", Path("m")), "its error is inf"),
    ],
)
def test_a_variant_that_is_slow_or_far_off_is_not_published(made: Variant, objection: str) -> None:
    found = Rules().objection(made, {})
    assert found.startswith(objection) if objection.startswith("it") else objection in found
    assert bool(found) is bool(objection)


def test_a_metric_decides_instead_of_single_values() -> None:
    rules = Rules(metric=Function("m", "f"), max_metric_drop=0.02)
    original = {"accuracy": 0.9, "recall": 0.8}
    assert rules.objection(variant(error=0.5, accuracy=0.89, recall=0.9), original) == ""
    assert rules.objection(variant(accuracy=0.89, recall=0.7), original) == "recall falls from 0.8 to 0.7 (--max-metric-drop)"
    assert rules.objection(variant(accuracy=0.95), original).startswith("recall falls from 0.8 to 0")


def test_a_largest_error_is_given_for_a_variant() -> None:
    assert parse_max_error("int8=0.2") == ("int8", 0.2)
    assert Rules(dict([parse_max_error("int8=0.3"), ("fp16", 0.02)])).objection(variant(error=0.2), {}) == ""


@pytest.mark.parametrize("text", ["int8", "int8=", "int4=0.1", "int8=-1", "int8=nan", "int8=inf"])
def test_a_largest_error_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(SpecError, match=f"max-error '{text}' can't be read.*variants are fp16, int8"):
        parse_max_error(text)
