"""Lines of 100 columns and tables, for pages on a terminal."""

import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

WIDTH = 100
_LABEL = 19


def line(label: str, text: str) -> str:
    """A label and its text, wrapped."""
    return "\n".join(wrapped(f"  {label:{_LABEL}}{text}", _LABEL + 2))


def wrapped(text: str, indent: int) -> list[str]:
    """The lines of a text; all but the first are indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        yield "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Redirects stdout to stderr, so that only the page goes to stdout and no messages of ONNX Runtime, for example."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
