import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_loadtests.results import Skipped
from turnout_loadtests.verdict import verdict, verdicts

from tests.loadtests.made import cell, failed_cell


def test_without_cuda_the_verdict_is_on_the_cpu_alone() -> None:
    text = verdict([cell(), cell(batch=8, rows_per_s=120.0)], ["cuda"])
    assert text == (
        "CUDA not available: CPU half only — 100 rows/s at batch 1 (p50 40.0 ms, 4 users), "
        "120 rows/s at batch 8 (p50 40.0 ms, 4 users)."
    )
    assert "enough" not in text


def test_a_median_of_too_few_samples_is_not_given() -> None:
    assert "at batch 1 (p50 n too small, 4 users)" in verdict([cell(service_p50_ms=None)], [])


def test_a_faster_gpu_is_stated_with_both_sides_numbers() -> None:
    text = verdict([cell(), cell(device="cuda", rows_per_s=620.0, service_p50_ms=6.4)], [])
    assert text == "The GPU is 6.20 times as fast at batch 1: 620 rows/s against 100, p50 6.40 ms against 40.0 ms."


def test_a_gpu_that_is_faster_only_in_batches_has_both_in_its_verdict() -> None:
    slow, fast = cell(device="cuda:0", rows_per_s=50.0), cell(device="cuda:0", batch=8, rows_per_s=300.0)
    text = verdict([cell(), slow, cell(batch=8), fast], [])
    assert text.startswith("The GPU is 3.00 times as fast at batch 8: ")
    assert "It is no faster at batch 1: 50.0 rows/s against 100" in text


@given(st.floats(0.01, 1.05))
def test_a_gpu_within_five_percent_means_the_cpu_is_enough(speedup: float) -> None:
    assert verdict([cell(), cell(device="cuda", rows_per_s=100.0 * speedup)], []).startswith("The CPU is enough")


def test_a_client_at_its_limit_makes_the_speedup_a_lower_bound() -> None:
    text = verdict([cell(), cell(device="cuda", rows_per_s=500.0, flags=["client-limited"])], [])
    assert text.startswith("The GPU is at least 5.00 times as fast")
    assert "at least 100 rows/s" in verdict([cell(flags=["client-limited"])], [])


def test_a_device_that_answered_nothing_is_not_compared() -> None:
    text = verdict([cell(), failed_cell(device="cuda")], [])
    assert text.startswith("cuda answered nothing (RESOURCE_EXHAUSTED): CPU half only — 100 rows/s")


def test_without_any_answers_the_verdict_is_undecided() -> None:
    assert verdict([failed_cell()], ["cuda"]).startswith("Undecided: no request was answered (CUDA not available; cpu")
    assert verdict([], []) == "Undecided: no request was answered."


def test_different_loads_are_not_compared() -> None:
    assert "different loads" in verdict([cell(batch=1), cell(device="cuda", batch=8)], [])


@pytest.mark.parametrize(("device", "half"), [("cuda", "GPU half only"), ("auto", "only auto was measured")])
def test_a_single_measured_device_is_named(device: str, half: str) -> None:
    assert verdict([cell(device=device)], []).startswith(half)


def test_each_model_is_judged_by_its_own_cells() -> None:
    found = verdicts(["a", "b"], [cell(model="a"), cell(model="b", rows_per_s=7.0)], [Skipped("b", "cuda", "no")])
    assert [(verdict.model, "CUDA" in verdict.sentence) for verdict in found] == [("a", False), ("b", True)]
    assert "7.00 rows/s" in found[1].sentence
