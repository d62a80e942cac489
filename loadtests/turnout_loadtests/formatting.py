"""How numbers are written for people: three significant digits, and words where there is no number."""

TOO_FEW = "n too small"


def three_digits(value: float) -> str:
    """`0.347`, `12.5`, `1 230`: rounded to three significant digits, thousands set apart so that no line breaks there."""
    rounded = float(f"{value:.3g}")
    if rounded == 0 or abs(rounded) >= 100:
        return f"{rounded:,.0f}".replace(",", "\N{NO-BREAK SPACE}")
    return f"{rounded:#.3g}"


def ms(value: float | None) -> str:
    """A latency without its unit, for a table; a percentile that had too few samples says so."""
    return TOO_FEW if value is None else three_digits(value)


def with_unit(value: float | None) -> str:
    """A latency for a sentence."""
    return TOO_FEW if value is None else f"{three_digits(value)} ms"


def or_dash(value: float | None) -> str:
    """A number that may not have been stated."""
    return "–" if value is None else three_digits(value)  # noqa: RUF001 (a dash)
