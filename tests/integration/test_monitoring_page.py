"""The page on the monitoring port, /status, and `turnout-server top`, of a running server."""

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests import models
from tests.browser import Browser, browser
from tests.servers import RunningServer, running
from tests.wire import request

ONES = {"INPUT0": np.ones((2, 16), np.float32), "INPUT1": np.ones((2, 16), np.float32)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with two models and a broken one, whose requests are those of this module."""
    root = tmp_path_factory.mktemp("models")
    models.save(root, "add_sub", models.add_sub(), configuration="max_batch_size: 8")
    models.save(root, "plain", models.mlp())
    models.save(root, "broken", b"this is no model")
    with running(root, "--server-name=box <b>7</b>") as server:
        yield server


@pytest.fixture(scope="module")
def tab(served: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        tab.resize(1200, 800)
        tab.open(f"{served.monitoring}/")
        tab.wait_for("document.querySelector('#models td') !== null")
        yield tab


def infer(server: RunningServer, times: int = 1) -> None:
    for _ in range(times):
        server.stub.ModelInfer(request("add_sub", ONES))


def status(server: RunningServer) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.monitoring}/status", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def entry(server: RunningServer) -> dict[str, Any]:
    found: dict[str, Any] = next(model for model in status(server)["models"] if model["name"] == "add_sub")
    return found


def test_the_status_counts_what_was_asked(served: RunningServer) -> None:
    before = entry(served)["devices"][0]
    infer(served, 3)
    while (after := entry(served)["devices"][0])["answered"] - before["answered"] < 3:
        pass  # a request is counted just after its answer was sent
    assert after["answered"] - before["answered"] == 3
    assert after["rows"] - before["rows"] == 6
    assert sum(after["latency_counts"]) == after["answered"] == sum(after["routes"].values())
    assert after["busy_s"] > before["busy_s"]
    assert (after["device"], after["nodes"], after["waiting"]) == ("cpu", {"CPUExecutionProvider": 2}, 0)


def test_the_status_has_requests_that_failed_before_they_had_a_device(served: RunningServer) -> None:
    before = entry(served)["failures"].get("INVALID_ARGUMENT", 0)
    with pytest.raises(grpc.RpcError):
        served.stub.ModelInfer(request("add_sub", {"INPUT0": np.ones((2, 3), np.float32)}))
    assert entry(served)["failures"]["INVALID_ARGUMENT"] == before + 1


def test_the_status_says_why_a_model_is_missing(served: RunningServer) -> None:
    broken = next(model for model in status(served)["models"] if model["name"] == "broken")
    assert (broken["state"], broken["devices"]) == ("UNAVAILABLE", [])
    assert broken["reason"]


def test_the_page_is_one_file_that_asks_nobody_else(served: RunningServer) -> None:
    with urllib.request.urlopen(f"{served.monitoring}/", timeout=10) as answer:
        page, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"(?:src|href)=\"(?!/|data:)", page)
    assert "//" not in re.sub(r"//.*", "", page)


def test_top_prints_the_same(served: RunningServer) -> None:
    infer(served)
    address = served.monitoring.removeprefix("http://")
    command = [sys.executable, "-m", "turnout_server", "top", f"--at={address}", "--every=0.2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "add_sub 1" in done.stdout
    assert "box <b>7</b>  ready" in done.stdout


def test_the_page_shows_devices_models_and_where_requests_ran(served: RunningServer, tab: Browser) -> None:
    infer(served)
    tab.wait_for("document.querySelector('#routes')?.innerText.includes('add_sub 1')")
    assert tab.ask("document.querySelector('#devices').innerText").startswith("device\tprovider")
    table = tab.ask("document.querySelector('#models').innerText")
    assert "CPU 100%" in table
    assert "broken" in table
    assert tab.ask("document.querySelector('#state')?.innerText") == "ready"


def test_the_page_moves_with_the_requests(served: RunningServer, tab: Browser) -> None:
    infer(served, 5)
    count = entry(served)["devices"][0]["answered"]
    tab.wait_for(f"document.querySelector('#routes tbody td.number')?.innerText === '{count}'")


def test_names_on_the_page_are_text(tab: Browser) -> None:
    assert tab.ask("document.querySelector('h1').innerText") == "box <b>7</b>"
    assert tab.ask("document.querySelector('h1 b')") is None


def test_the_page_works_without_a_mouse(tab: Browser) -> None:
    tab.resize(1200, 800)
    tab.ask("document.activeElement.blur()")
    focus = "document.activeElement.id || document.activeElement.tagName + (document.activeElement.textContent || '').trim()"
    visited = list[str]()
    while len(visited) < 20:
        tab.press("Tab")
        if tab.ask("document.activeElement === document.body"):  # past the last
            break
        visited.append(tab.ask(focus))
        assert tab.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        if visited[-1] == "pause":
            tab.press("Enter")
            assert tab.ask("document.activeElement.getAttribute('aria-pressed')") == "true"
            tab.press("Enter")
            assert tab.ask("document.activeElement.getAttribute('aria-pressed')") == "false"
    assert {"pause", "SUMMARY", "A/metrics"} <= {each.partition("Not on")[0] for each in visited}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page_in_light_and_in_dark(tab: Browser, scheme: str) -> None:
    tab.prefer(scheme)
    assert (luminance(color(tab, "document.body", "backgroundColor")) > 0.5) == (scheme == "light")
    page = color(tab, "document.body", "backgroundColor")
    for element in ("h1", "#state", "#uptime", "th", "td.name", "td .good", "td .bad", "footer a"):
        text = color(tab, f"document.querySelector('{element}')", "color")
        assert contrast(text, page) >= 4.5, element  # WCAG 2.2, level AA


@pytest.mark.parametrize("width", [1200, 768, 390, 320])
def test_no_part_of_the_page_is_wider_than_the_screen(tab: Browser, width: int) -> None:
    tab.resize(width, 800)
    assert tab.ask("document.documentElement.scrollWidth") <= width


def test_a_server_that_is_gone_is_said_on_the_page(tmp_path: Path) -> None:
    models.save(tmp_path / "models", "add_sub", models.add_sub())
    with running(tmp_path / "models") as server, browser(tmp_path / "profile") as tab:
        tab.open(f"{server.monitoring}/")
        tab.wait_for("document.querySelector('#state')?.innerText === 'ready'")
        server.process.end()
        tab.wait_for("document.querySelector('#state')?.innerText?.includes('no answer from the server')")


Color = tuple[int, int, int]


def color(tab: Browser, element: str, name: str) -> Color:
    red, green, blue = map(int, re.findall(r"\d+", tab.ask(f"getComputedStyle({element}).{name}"))[:3])
    return red, green, blue


def luminance(color: Color) -> float:
    """Relative luminance, WCAG 2.2."""
    shares = [part / 255 for part in color]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: Color, second: Color) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)
