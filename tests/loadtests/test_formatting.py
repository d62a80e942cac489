import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_loadtests.formatting import markdown_table, or_dash, three_digits, with_bound
from turnout_loadtests.sending.buckets import three_significant_digits


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.34721, "0.347"), (5.3, "5.30"), (99.96, "100"), (128.4, "128"), (1234.0, "1\N{NO-BREAK SPACE}230")],
)
def test_numbers_keep_three_significant_digits(value: float, text: str) -> None:
    assert three_digits(value) == text


def test_a_missing_percentile_is_a_dash_and_a_known_one_has_its_bound() -> None:
    assert or_dash(None) == with_bound(None, None) == "\N{EN DASH}"
    assert with_bound(2.5, None) == "2.50"
    assert with_bound(2.5, 2.75) == "2.50 (\N{LESS-THAN OR EQUAL TO}2.75)"


@given(st.floats(1e-6, 1e9))
def test_a_histogram_bucket_is_within_half_a_percent(response_time_ms: float) -> None:
    assert three_significant_digits(response_time_ms) == pytest.approx(response_time_ms, rel=0.005)


def test_a_markdown_table_has_a_line_for_its_headings_and_one_for_each_row() -> None:
    assert markdown_table(["a", "b"], [["1", "2"]]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]
