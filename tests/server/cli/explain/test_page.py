from dataclasses import replace

import pytest
from turnout_server.cli.explain import page
from turnout_server.explain.answer import DeviceFacts, Explanation
from turnout_server.explain.load import Load

ESTIMATE = {"service_us": 2000.0, "spread_us": 15.0, "fastest_us": 1900.0, "runs": 5}
CPU = DeviceFacts("cpu", asked=True, profile={"2": ESTIMATE}, cap=2, cap_reason="so", service_us=2e3, predicted_finish_us=2e3)
GPU = DeviceFacts("cuda:0", asked=True, profile={}, cap=8, cap_reason="so", waiting=3, predicted_finish_us=1.9e6)
CHOSEN = Explanation(
    "m", "1", 2, "auto", "latency", None, None, (CPU, GPU), device="cpu", reason="earliest", predicted_us=2000.0
)


def test_the_first_line_is_the_answer() -> None:
    text = page.as_text(CHOSEN, live=True)
    assert text.startswith("2 rows of m, version 1, would run on cpu: it would finish first, in 2 ms (as its queues are now)\n")
    assert "(on an idle server)" in page.as_text(CHOSEN, live=False).replace("\n  ", " ")


def test_a_refusal_says_why() -> None:
    refused = replace(CHOSEN, device="", reason="", predicted_us=None, problem="cpu is full")
    assert page.as_text(refused, live=True).startswith("2 rows of m, version 1, would be refused: cpu is full\n")


def test_the_page_says_if_the_last_device_is_kept_although_another_is_sooner() -> None:
    kept = replace(CHOSEN, devices=(CPU, replace(GPU, predicted_finish_us=1950.0)), last="cpu")
    assert "the last such request ran there" in page.as_text(kept, live=True)


def test_the_page_shows_the_role_of_each_device_in_the_decision() -> None:
    devices = (CPU, GPU, DeviceFacts("cuda:1", asked=True, problem="it is lost"), DeviceFacts("npu:0", asked=False))
    text = page.as_text(replace(CHOSEN, devices=devices), live=True)
    for name, role in {
        "cpu": "chosen",
        "cuda:0": "could take it",
        "cuda:1": "ruled out",
        "npu:0": "not asked for",
    }.items():
        assert any(line.split()[:1] == [name] and line.endswith(role) for line in text.splitlines())
    assert "WHY NOT\n  cuda:1             it is lost" in text


def test_the_delay_imposed_on_others_is_shown_where_there_are_others() -> None:
    crowded = replace(CHOSEN, devices=(replace(CPU, delay_us=120e3), GPU))
    header, cpu, gpu = page.as_text(crowded, live=True).split("DEVICES\n")[1].splitlines()[:3]

    column = header.index("others wait")
    assert (cpu[column:].split("  ")[0], gpu[column:].split("  ")[0]) == ("120 ms", "-")


def test_a_column_without_values_is_left_out() -> None:
    assert "others wait" not in page.as_text(CHOSEN, live=True)
    assert "energy" not in page.as_text(CHOSEN, live=True)
    priced = replace(CHOSEN, devices=(replace(CPU, energy_j=0.25, cost_per_million=1.5), GPU))
    assert "0.25 J" in page.as_text(priced, live=True)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (Load(100.0, 400.0, 2, 0.25, 150.0), "carries 100/s; 400/s is the most. Busy 25% of the time, 2 rows in a run"),
        (Load(1000.0, 400.0, 2, 2.5, None), "cannot carry 1,000/s: 400/s is the most"),
    ],
)
def test_a_predicted_load_is_marked_as_a_formula(load: Load, words: str) -> None:
    text = page.as_text(replace(CHOSEN, devices=(replace(CPU, load=load), GPU)), live=True)
    assert words in text.replace("\n" + " " * 21, " ")
    assert "a formula, not a measurement" in text
    assert "formula" not in page.as_text(CHOSEN, live=True)


@pytest.mark.parametrize(
    ("per_core", "words"),
    [(True, "so each core has its own where enough requests wait"), (False, "so a run has all of them")],
)
def test_it_is_said_whether_requests_have_a_core_each(per_core: bool, words: str) -> None:
    tried = replace(CPU, cores=2, together_per_s=25.1, per_core_per_s=31.4, per_core=per_core)
    text = " ".join(page.as_text(replace(CHOSEN, devices=(tried, GPU)), live=False).split())
    assert f"a run on each of 2 cores carries 31.4/s, one on all of them 25.1/s: {words}" in text
    assert "CORES" not in page.as_text(CHOSEN, live=False)
