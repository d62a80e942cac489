"""What a page for a terminal is made of: lines of 100 columns, and tables."""

import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

WIDTH = 100
_LABEL = 19


def line(label: str, text: str) -> str:
    """A label and what there is to say of it, in as many lines as it takes."""
    return "\n".join(wrapped(f"  {label:{_LABEL}}{text}", _LABEL + 2))


def wrapped(text: str, indent: int) -> list[str]:
    """Lines, all but the first of them indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        yield "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


@contextmanager
def output_aside() -> Iterator[None]:
    """Sends to stderr what others write to stdout meanwhile, such as ONNX Runtime about libraries: the page is all that is."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(ours, 1)
        os.close(ours)
