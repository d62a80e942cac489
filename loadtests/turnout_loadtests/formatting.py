"""Numbers and tables as text: three significant digits, and words where there is no number."""

from collections.abc import Sequence


def three_digits(value: float) -> str:
    """A number rounded to three significant digits, thousands separated by a no-break space: `0.347`, `12.5`, `1 230`."""
    rounded = float(f"{value:.3g}")
    if rounded == 0 or abs(rounded) >= 100:
        return f"{rounded:,.0f}".replace(",", "\N{NO-BREAK SPACE}")
    return f"{rounded:#.3g}"


def or_dash(value: float | None) -> str:
    """A number, or a dash if there is none."""
    return "–" if value is None else three_digits(value)  # noqa: RUF001 (a dash)


def with_bound(value: float | None, bound: float | None) -> str:
    """A percentile with the value that it doesn't exceed, as `12.5 (<= 13.1)`; a dash if there were too few samples."""
    if value is None:
        return or_dash(None)
    return three_digits(value) if bound is None else f"{three_digits(value)} (\N{LESS-THAN OR EQUAL TO}{three_digits(bound)})"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [
        "| " + " | ".join(headings) + " |",
        "|" + "---|" * len(headings),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
