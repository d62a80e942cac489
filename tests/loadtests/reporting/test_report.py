import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.measuring.devices import DeviceFacts
from turnout_loadtests.reporting.conclusions import concluded, merged
from turnout_loadtests.reporting.report import distinct, numbers, render
from turnout_loadtests.reporting.results import UNAVAILABLE, Gap, Results

from tests.loadtests.made import Behaviour, World

DEVICES = {"cpu": Behaviour(ms=10.0), "cuda": Behaviour(ms=2.0), "openvino": Behaviour(ms=7.0, precision="int8")}
FACTS = {
    name: DeviceFacts(name, name, "P", 2, 1, price_per_hour=price)
    for name, price in (("cpu", 0.34), ("cuda", 1.2), ("openvino", 0.34))
}
CARRIES = [
    Capacity("resnet50", name, 1, 50.0, per_s, per_s * 1.04, 9)
    for name, per_s in (("cpu", 100.0), ("cuda", 2000.0), ("openvino", 150.0))
]
WORLD = World(
    DEVICES, FACTS, rounds=4, window_s=2.0, batches=(1, 8), loads_per_s=(60.0,), target_ms=50.0, capacities=CARRIES,
    gaps=[Gap("resnet50", "tensorrt", 0, UNAVAILABLE, "no <TensorRT> & co.")],
)  # fmt: skip
MADE = WORLD.results()
SMALL_WORLD = World({"cpu": Behaviour()}, rounds=2, window_s=0.5)
SMALL = SMALL_WORLD.results()
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Elements(HTMLParser):
    """Checks that elements are closed in their order, and remembers those with their attributes."""

    VOID = ("meta", "input", "link", "br", "path", "use", "rect")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return rendered(MADE, tmp_path_factory.mktemp("report"))


def rendered(results: Results, folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in render(results, folder)}


def test_a_report_is_an_html_page_a_markdown_file_and_its_charts(texts: dict[str, str]) -> None:
    assert {"report.html", "report.md", "timeline.svg", "resnet50-cost.svg", "resnet50-batch.svg"} <= texts.keys()
    shown = set(re.findall(r"\]\(([\w.-]+\.svg)\)", texts["report.md"]))
    assert shown == {name for name in texts if name.endswith(".svg")}
    assert len(texts["report.html"]) < 1_000_000


def test_the_card_comes_first_and_has_the_whole_answer(texts: dict[str, str]) -> None:
    page = texts["report.html"]
    card = page[page.index('<section class="card') : page.index("</section>")]
    assert "No, not for 60 requests/s at p99 ≤ 50 ms: one openvino is enough." in card
    assert "or 150 without the reserve of 30\u00a0%" in card
    assert "Above 315 requests/s one GPU is cheaper than 4 x openvino" in card
    assert page.index("card") < page.index("<table")


@pytest.mark.parametrize(
    "said",
    [
        "No, not for 60 requests/s",
        "openvino",
        "int8",
        "turnout-loadtest compare",
        "locust -f",
        "TensorRT",
    ],
)
def test_both_formats_have_answer_numbers_gaps_and_commands(said: str, texts: dict[str, str]) -> None:
    for name in ("report.html", "report.md"):
        assert said in texts[name]


def test_the_page_loads_nothing_and_reads_without_its_script(texts: dict[str, str]) -> None:
    page = texts["report.html"]
    assert not re.search(r'(src|href)="(?!#)[^"]', page.replace('href="http://www.w3.org', ""))
    assert "@import" not in page
    assert page.count("<script") == 1
    assert re.search(r'<form id="yours" hidden', page)  # only the script shows it
    without = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    for said in ("1 x openvino", "a million", "p99 ≤ 50 ms"):
        assert said in without


def test_the_page_closes_every_element_and_is_accessible(texts: dict[str, str]) -> None:
    found = Elements(re.sub(r"<!DOCTYPE[^>]*>|<\?xml[^>]*>", "", texts["report.html"], flags=re.IGNORECASE))
    assert found.open == []
    for tag, attributes in found.seen:
        if tag == "th":
            assert attributes.get("scope") in ("col", "row")
        if tag == "figure":
            assert len(attributes.get("aria-label") or "") > 20
    ids = [attributes["id"] for tag, attributes in found.seen if "id" in attributes and tag in ("h2", "form", "div", "section")]
    assert len(ids) == len(set(ids))
    targets = {(attributes.get("href") or "")[1:] for tag, attributes in found.seen if tag == "a"}
    assert targets <= set(ids)


def test_reasons_have_the_width_of_the_table_below_their_measurement(tmp_path: Path) -> None:
    """As the last of fifteen columns they were cut off, and so narrow that a row filled the screen."""
    results = World({"cpu": Behaviour(), "cuda": Behaviour(fails_share=0.6)}, rounds=2, window_s=0.5).results()
    texts = rendered(results, tmp_path)
    page = texts["report.html"]
    table = page[page.index('aria-label="Measurements"') :]
    head, body = table[: table.index("</thead>")], table[table.index("<tbody>") : table.index("</tbody>")]
    columns = head.count('scope="col"')
    assert "Reasons" not in head
    lines = [line for line in body.splitlines() if line.startswith("<tr")]
    measured = [place for place, line in enumerate(lines) if 'scope="row"' in line]
    assert [lines[place].count("<td") + 1 for place in measured] == [columns] * len(results.summaries)
    for place, summary in zip(measured, results.summaries, strict=True):
        said = [line for line in lines[place + 1 : place + 2] if f'<td colspan="{columns}"' in line]
        assert [reason in said[0] for reason in summary.reasons if said] == [True] * len(summary.reasons)
        assert bool(said) is bool(summary.reasons) is ('class="remarked"' in lines[place])
    assert "Reasons and remarks |" in texts["report.md"]


def test_a_reason_is_escaped(texts: dict[str, str]) -> None:
    assert "no &lt;TensorRT&gt; &amp; co." in texts["report.html"]
    assert "<TensorRT>" not in texts["report.html"]


def test_the_script_computes_with_the_reports_own_numbers(texts: dict[str, str]) -> None:
    (model,) = json.loads(numbers(MADE))
    carried = {device["name"]: device["carries"]["50"] for device in model["devices"]}
    assert carried == {"cpu": 100.0, "cuda": 2000.0, "openvino": 150.0}
    assert {device["name"]: device["price"] for device in model["devices"]} == {"cpu": 0.34, "cuda": 1.2, "openvino": 0.34}
    assert "</" not in numbers(replace(MADE, models=["</script>"]))


def scripted() -> Results:
    """A second model whose GPU carries less for its price than the CPU."""
    encoder = [
        Capacity("encoder", name, 1, 50.0, per_s, per_s * 1.04, 9)
        for name, per_s in (("cpu", 100.0), ("cuda", 230 / 0.7), ("openvino", 150.0))
    ]
    early = [
        Capacity("early", "cpu", 1, 50.0, 50.0, None, 9, "ended early"),
        Capacity("early", "cuda", 1, 50.0, 2000.0, 2080.0, 9),
        Capacity("early", "openvino", 1, 50.0, None, 5.0, 9, "missed"),
    ]
    given = [*CARRIES, *encoder, *early]
    models = ("resnet50", "encoder", "early")
    return replace(WORLD, models=models, capacities=given, window_s=1.0, rounds=3, loads_per_s=(90.0,)).results()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_script_comes_to_the_same_break_even_as_the_card(tmp_path: Path) -> None:
    render(scripted(), tmp_path)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *options, str(tmp_path / "report.html")], capture_output=True, text=True, timeout=60, check=True
    )
    computed = done.stdout[done.stdout.index('id="computed"') :]
    computed = computed[: computed.index("</div>")]
    assert "2 x cpu = 0.68/h; 1 x cuda = 1.20/h; 1 x openvino = 0.34/h; cheapest: openvino" in computed
    assert "cuda is cheaper than cpu above 210/s" in computed
    assert "cuda is cheaper than cpu only between 210 and 230/s" in computed
    assert "≤ 3 x cpu = ≤ 1.02/h; 1 x cuda = 1.20/h; what openvino carries is not known" in computed
    assert "cuda is cheaper than cpu above a load that is not known" in computed


def test_charts_are_drawings_with_a_background_and_their_text_as_text(texts: dict[str, str]) -> None:
    for name, text in texts.items():
        if name.endswith(".svg"):
            root = ElementTree.fromstring(text)
            assert root.tag.endswith("svg")
            assert "background: white" in text
            assert "<text" in text


def test_equal_results_give_equal_reports(texts: dict[str, str], tmp_path: Path) -> None:
    assert rendered(MADE, tmp_path) == texts


@pytest.mark.parametrize("own", ["# My notes\n\n![logo](logo.svg)\n", "", None], ids=["notes", "an empty file", "nothing"])
def test_a_report_deletes_no_file_that_is_not_its_own(own: str | None, tmp_path: Path) -> None:
    (tmp_path / "logo.svg").write_text("<svg/>")
    if own is not None:
        (tmp_path / "report.md").write_text(own)
    for _ in range(2):
        rendered(SMALL, tmp_path)
        assert (tmp_path / "logo.svg").read_text() == "<svg/>"


def test_charts_of_the_report_before_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "resnet50-drawing.svg").write_text("<svg/>")
    before = rendered(MADE, tmp_path)
    after = rendered(SMALL, tmp_path)
    charts = {path.name for path in tmp_path.glob("*.svg")}
    assert charts == {name for name in after if name.endswith(".svg")} | {"resnet50-drawing.svg"}
    assert "resnet50-cost.svg" in before.keys() - charts


@pytest.mark.parametrize("models", [("res_net", "res-net"), ("a", "a-card"), ("Net", "net", "net-2"), ("é t", "é_t")])
def test_models_with_similar_names_have_charts_and_anchors_of_their_own(models: tuple[str, ...], tmp_path: Path) -> None:
    texts = rendered(replace(SMALL_WORLD, models=models).results(), tmp_path)
    charts = re.findall(r"\]\(([^()]+\.svg)\)", texts["report.md"])
    assert len({name.casefold() for name in charts}) == len(charts) == len(list(tmp_path.glob("*.svg")))
    ids = re.findall(r'<(?:h2|section|div|form)[^>]* id="([^"]*)"', texts["report.html"])
    assert len(ids) == len(set(ids))
    assert sum(name.startswith("model-") for name in ids) == len(models)
    assert {name for name in re.findall(r'href="#([^"]*)"', texts["report.html"]) if name.startswith("model-")} <= set(ids)


def test_words_for_names_differ_whatever_the_names_are() -> None:
    assert distinct(["a", "b.1"]) == {"a": "a", "b.1": "b.1"}
    assert list(distinct(["a_b", "a-b", "a-b-2", "A b", "a_b"]).values()) == ["a-b", "a-b-2", "a-b-2-2", "A-b-3"]


def test_results_of_two_machines_are_one_report_with_both_environments(tmp_path: Path) -> None:
    other = World({"cpu": Behaviour(ms=5.0)}, rounds=4, window_s=1.0, target_ms=50.0).results()
    both = merged(WORLD.results(), [other])
    page = rendered(both, tmp_path)["report.html"]
    assert "cpu@2" in page
    assert "Machine 1" in page
    assert "Machine 2: devices with @2" in page
    assert [machine.number for machine in both.machines] == [1, 2]


@pytest.mark.parametrize(
    "world",
    [
        World({"cpu": Behaviour(fails_share=0.6)}, rounds=2, window_s=0.5),
        World({"cuda": Behaviour()}, rounds=2, window_s=0.5),
        World({"cpu": Behaviour()}, rounds=0),
        World({}, gaps=[Gap("resnet50", "", 0, "failed", "unknown model")]),
    ],
    ids=["invalid", "the GPU alone", "nothing measured", "no device"],
)
def test_whatever_was_measured_makes_a_report(world: World, tmp_path: Path) -> None:
    texts = rendered(world.results(), tmp_path)
    assert "resnet50" in texts["report.html"]
    assert "None" not in re.sub(r"<script>.*?</script>", "", texts["report.html"], flags=re.DOTALL)


def test_an_interrupted_comparison_says_so(tmp_path: Path) -> None:
    page = rendered(concluded(replace(MADE, complete=False)), tmp_path)["report.html"]
    assert "didn't come to its end" in page.replace("&#39;", "'")
