"""The table of faults in docs/faults.md: each fault, what it must get, and the tests that exist for it.

The numbers at the beginning of a test's name are those of the faults that it provokes: `test_1_2_a_malformed_...`.

    python -m tests.faults.table        # writes the column "tests" anew
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/faults.md"
_NUMBERS = re.compile(r"test_((?:\d+_)+)")
_ROW = re.compile(r"^\| (\d+) \| (.*) \| (.*) \| .*? \|$", re.MULTILINE)


def tests() -> Iterator[tuple[int, str, str]]:
    """Number of a fault, file and name of each test that provokes it."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (numbers := _NUMBERS.match(node.name)):
                for number in numbers[1].rstrip("_").split("_"):
                    yield int(number), str(path.relative_to(ROOT)), node.name


def by_fault() -> Mapping[int, list[str]]:
    """The tests of each fault as `file::name`."""
    found: dict[int, list[str]] = {}
    for number, file, name in tests():
        found.setdefault(number, []).append(f"`{file.removeprefix('tests/')}::{name}`")
    return found


def written(page: str, found: Mapping[int, list[str]]) -> str:
    """The page with its column of tests as they are now."""

    def row(match: re.Match[str]) -> str:
        names = "<br>".join(found.get(int(match[1]), [])) or "none"
        return f"| {match[1]} | {match[2]} | {match[3]} | {names} |"

    return _ROW.sub(row, page)


def rows(page: str) -> list[int]:
    """The numbers of the faults in the page's table."""
    return [int(match[1]) for match in _ROW.finditer(page)]


def main() -> int:
    """Writes the page; returns the exit status."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), by_fault()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
