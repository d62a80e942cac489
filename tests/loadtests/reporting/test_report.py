import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from turnout_loadtests.report import FLAGS, noise, render
from turnout_loadtests.results import Results, Skipped

from tests.loadtests.made import cell, failed_cell, results

GAP = Skipped("resnet50", "cuda", "no <NVIDIA> driver; install turnout[gpu]")
BOTH = results(cell(), cell(device="cuda", rows_per_s=620.0), cell(batch=8), failed_cell(device="cuda", batch=8))


def rendered(made: Results, folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in render(made, folder)}


def test_a_report_is_an_html_page_a_markdown_file_and_its_charts(tmp_path: Path) -> None:
    assert set(rendered(BOTH, tmp_path)) == {"report.html", "report.md", "throughput.svg", "latency.svg"}


def test_both_formats_have_the_verdict_the_numbers_and_the_commands(tmp_path: Path) -> None:
    texts = rendered(BOTH, tmp_path)
    for name in ("report.html", "report.md"):
        for said in ("6.20 times as fast", "n too small", "800 of 800", "Test CPU", "turnout-loadtest compare", "-m locust"):
            assert said in texts[name]


def test_the_page_has_no_scripts_and_loads_nothing(tmp_path: Path) -> None:
    page = rendered(BOTH, tmp_path)["report.html"]
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!#)', page.replace('xlink:href="#', ""))
    assert page.count("<svg") == 2
    assert "<?xml" not in page


def test_the_page_closes_every_element_that_it_opens(tmp_path: Path) -> None:
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in {"meta"}:
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    reader = Balance()
    reader.feed(rendered(BOTH, tmp_path)["report.html"])
    assert reader.open == []


def test_a_reason_is_escaped(tmp_path: Path) -> None:
    texts = rendered(results(cell(), skipped=(GAP,)), tmp_path)
    assert "no &lt;NVIDIA&gt; driver; install turnout[gpu]" in texts["report.html"]
    assert "cuda: not available: no <NVIDIA> driver; install turnout[gpu]" in texts["report.md"]


def test_charts_are_drawings_with_their_numbers_as_text(tmp_path: Path) -> None:
    texts = rendered(BOTH, tmp_path)
    for name in ("throughput.svg", "latency.svg"):
        drawn = " ".join(ElementTree.fromstring(texts[name]).itertext())
        assert "resnet50" in drawn
        assert "cuda, batch 1" in drawn
    assert "620" in texts["throughput.svg"]


def test_equal_results_give_equal_reports(tmp_path: Path) -> None:
    assert rendered(BOTH, tmp_path / "one") == rendered(BOTH, tmp_path / "two")


@pytest.mark.parametrize("flags", [[], ["noisy"]])
def test_a_noisy_machine_gets_a_banner(tmp_path: Path, flags: list[str]) -> None:
    texts = rendered(results(cell(flags=flags), cell(batch=8)), tmp_path)
    assert [("Noisy machine" in texts[name]) for name in ("report.html", "report.md")] == [bool(flags)] * 2


def test_pressure_that_could_not_be_read_is_unknown() -> None:
    assert noise([cell(idle_pressure_percent=None)]) == "unknown"
    assert noise([cell(idle_pressure_percent=40.0), cell()]) == "CPU pressure up to 40.0 % while idle before each row"


def test_only_the_flags_that_occur_are_explained(tmp_path: Path) -> None:
    page = rendered(BOTH, tmp_path)["report.html"]
    assert FLAGS["failures"] in page
    assert FLAGS["client-limited"] not in page


def test_nothing_measured_still_makes_a_report(tmp_path: Path) -> None:
    assert "Measured" in rendered(results(), tmp_path)["report.html"]
