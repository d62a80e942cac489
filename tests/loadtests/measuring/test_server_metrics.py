import pytest
from turnout_loadtests.measuring.server_metrics import Page, busy_shares, fetch, parse

TEXT = """# HELP turnout_compute_seconds x
turnout_compute_seconds_sum{device="cpu",model="a"} 2.5
turnout_compute_seconds_sum{device="cpu",model="b"} 0.5
turnout_compute_seconds_count{device="cpu",model="a"} 30
turnout_batch_rows_count{device="cpu",model="a"} 10
nv_gpu_power_usage{gpu_uuid="GPU-1"} 71.5
nv_energy_consumption{gpu_uuid="GPU-1"} 1e3
other{device="cpu"} 1
broken line
"""


def test_the_series_of_all_models_are_added() -> None:
    page = parse(TEXT, 1.0)
    assert (page.compute_s, page.answered, page.runs) == ({"cpu": 3.0}, {"cpu": 30.0}, {"cpu": 10.0})
    assert (page.gpu_w, page.gpu_j) == ({"GPU-1": 71.5}, {"GPU-1": 1000.0})


def test_requests_that_ran_together_count_their_run_once() -> None:
    before = Page(0.0, {"cpu": 0.0}, {"cpu": 0.0}, {"cpu": 0.0})
    after = Page(10.0, {"cpu": 8.0}, {"cpu": 40.0}, {"cpu": 10.0})  # four requests a run, 0.2 s each
    assert busy_shares(before, after) == {"cpu": pytest.approx(0.2)}
    assert busy_shares(before, after, lambda _: 2) == {"cpu": pytest.approx(0.1)}
    assert busy_shares(before, Page(10.0, {"cpu": 0.0}, {}, {})) == {"cpu": 0.0}


def test_a_page_that_cannot_be_read_is_none(closed_port: int) -> None:
    assert fetch(f"127.0.0.1:{closed_port}") is None
