"""The pages in docs/ and README.md: their table cells are short, and what they refer to exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
#: Pages that people write; those in docs/results are mostly written by programs.
WRITTEN = [page for page in PAGES if "results" not in page.parts]
MAX_CELL_WORDS = 25

#: Where a path that a page names may begin: the project's root, and the server's package.
STARTS = (ROOT, ROOT / "server" / "turnout_server")
FOLDERS = "benchmarks|deploy|docs|examples|exporter|loadtests|proto|server|simulation|tests|tools"
#: What `make` writes, so that it isn't in the repository.
MADE = ("docs/results/gpu/doctor.txt", "docs/results/gpu/tests.txt")

FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def prose_of(page: Path) -> str:
    """The text of a page without its code blocks."""
    return FENCE.sub("", page.read_text())


def cells_of(page: Path) -> Iterator[str]:
    """The text of each table cell, links reduced to their text."""
    for line in prose_of(page).splitlines():
        if line.startswith("|"):
            for cell in re.split(r"(?<!\\)\|", line.strip("|")):
                yield LINK.sub(r"\g<text>", cell).strip()


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    plain = (LINK.sub(r"\g<text>", heading).lower().strip() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_a_table_cell_is_a_phrase_not_a_paragraph(page: Path) -> None:
    too_long = [cell for cell in cells_of(page) if len(cell.split()) > MAX_CELL_WORDS]
    assert not too_long, f"over {MAX_CELL_WORDS} words: {too_long}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_a_heading_in_it(page: Path) -> None:
    for link in LINK.finditer(prose_of(page)):
        target = link["target"]
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"[{link['text']}]({target}): there is no such file"
        if anchor:
            assert anchor in anchors_of(file), f"[{link['text']}]({target}): it has {sorted(anchors_of(file))}"


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    for path in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", prose_of(page)):
        assert path in MADE or any((start / path).exists() for start in STARTS), path


def test_every_page_that_code_refers_to_exists() -> None:
    files = [file for folder in FOLDERS.split("|") for file in (ROOT / folder).rglob("*.py")]
    for file in [*files, ROOT / "Makefile", ROOT / "CHANGELOG.md"]:
        for path in re.findall(r"\bdocs/[\w/.-]*\w\.md\b", file.read_text()):
            assert (ROOT / path).exists(), f"{name_of(file)} refers to {path}"


@pytest.mark.parametrize(
    ("readme_row", "heading"),
    [("a model of microseconds, 16 clients", "add_sub, 16 clients"), ("ResNet-50, 1 client", "resnet50, 1 client")],
)
def test_the_readmes_figures_are_those_of_the_reports(readme_row: str, heading: str) -> None:
    results = ROOT / "docs" / "results"
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", (results / "benchmarks.md").read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    measured = dict(re.findall(r"^\| ([^|]+) \| (\d+) \|", section[1], re.MULTILINE))
    row = re.search(rf"^\| {readme_row} \|(.*)\|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert row is not None
    turnout, kserve, mlserver, triton = (cell.strip().replace(",", "") for cell in row[1].split("|"))
    assert (turnout, kserve, mlserver) == (measured["turnout, completion queue"], measured["KServe"], measured["MLServer"])
    assert triton == "not measured" or f"{int(triton):,}" in (results / "triton.md").read_text()
