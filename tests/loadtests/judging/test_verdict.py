"""The sentences about pairs of devices; the devices' behaviour is made up."""

from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.measuring.devices import DeviceFacts
from turnout_loadtests.reporting.results import UNAVAILABLE, Gap

from tests.loadtests.made import Behaviour, World


def sentence(world: World) -> str:
    (verdict,) = world.results().verdicts
    return verdict.sentence


def test_the_faster_device_is_named_with_both_sides_numbers_and_the_interval() -> None:
    said = sentence(World({"cpu": Behaviour(ms=10.0, drift=0.02), "cuda": Behaviour(ms=2.0, drift=0.02)}))
    assert said.startswith("cuda (2 threads, 1 instance, CPUExecutionProvider, fp32) against cpu")
    assert "times (" in said
    assert "the throughput" in said
    assert "the median latency with one request at a time" in said


def test_equal_devices_are_the_same_or_undecided() -> None:
    said = sentence(World({"cpu": Behaviour(), "cuda": Behaviour()}))
    assert "don't differ by more than the 5 %" in said
    assert "Undecided" in sentence(World({"cpu": Behaviour(drift=0.2), "cuda": Behaviour(drift=0.2)}))


def test_a_worse_tail_is_said_beside_a_better_throughput() -> None:
    tailed = Behaviour(ms=2.0, slow_share=0.03, slow_ms=60.0)
    assert "Neither is better in every respect." in sentence(World({"cpu": Behaviour(ms=10.0), "cuda": tailed}))


def test_a_device_of_unknown_hardware_is_on_neither_side() -> None:
    facts = {"npu:0": DeviceFacts("npu:0", "npu:0", "VendorExecutionProvider")}
    devices = {"cpu": Behaviour(ms=10.0), "cuda": Behaviour(ms=9.0), "npu:0": Behaviour(ms=1.0)}
    results = World(devices, facts).results()
    assert {(each.first, each.second) for each in results.comparisons} == {("npu:0", "cuda"), ("npu:0", "cpu")}


def test_the_slowest_cpu_is_no_baseline() -> None:
    devices = {"cpu:a": Behaviour(ms=30.0), "cpu:b": Behaviour(ms=10.0), "cuda": Behaviour(ms=9.0)}
    results = World(devices).results()
    assert {(each.first, each.second) for each in results.comparisons} == {("cuda", "cpu:b")}


def test_three_devices_of_one_kind_are_compared_with_the_best() -> None:
    devices = {"cpu:a": Behaviour(ms=30.0), "cpu:b": Behaviour(ms=10.0), "cpu:c": Behaviour(ms=20.0)}
    results = World(devices).results()
    assert {(each.first, each.second) for each in results.comparisons} == {("cpu:b", "cpu:a"), ("cpu:b", "cpu:c")}


def test_a_missing_device_leaves_the_other_half_and_the_servers_reason() -> None:
    said = sentence(World({"cpu": Behaviour()}, gaps=[Gap("resnet50", "cuda", 0, UNAVAILABLE, "no NVIDIA driver")]))
    assert said.startswith("No comparison: cuda wasn't measured (no NVIDIA driver).")
    assert "rows/s" in said


def test_an_invalid_device_is_not_compared() -> None:
    results = World({"cpu": Behaviour(), "cuda": Behaviour(ms=0.5, fails_share=0.51)}).results()
    assert results.comparisons == []
    assert "cuda has no valid measurement" in results.verdicts[0].sentence


def test_a_device_whose_larger_batch_has_no_valid_measurement_is_not_the_slower_one() -> None:
    """Its best is unknown: it was once "18 times" slower, at batch 1, than another at batch 8."""
    unknown = Behaviour(ms=5.0, fails_share=0.51, fails_at=(8,))
    results = World({"cpu": Behaviour(ms=10.0), "cuda": unknown}, batches=(1, 8)).results()
    assert [each.outcome for each in results.comparisons if each.quantity == "throughput"] == ["undecided"]
    said = results.verdicts[0].sentence
    assert "Undecided in throughput (measured: 4.0" in said
    assert "there is no valid measurement of cuda at batch 8: " in said


def test_a_device_that_is_faster_anyway_need_not_have_every_batch() -> None:
    unknown = Behaviour(ms=0.5, fails_share=0.51, fails_at=(8,))
    said = sentence(World({"cpu": Behaviour(ms=10.0), "cuda": unknown}, batches=(1, 8)))
    assert "at least 2." in said
    assert "times the throughput (at least " in said


def test_a_smaller_batch_without_a_valid_measurement_changes_nothing() -> None:
    small = Behaviour(ms=2.0, fails_share=0.51, fails_at=(1,))
    results = World({"cpu": Behaviour(ms=10.0), "cuda": small}, batches=(1, 8)).results()
    assert [each.outcome for each in results.comparisons if each.quantity == "throughput"] == ["better"]


def test_capacities_come_first() -> None:
    capacities = [
        Capacity("resnet50", device, 1, 50.0, per_s, per_s * 1.04, 9) for device, per_s in (("cpu", 80.0), ("cuda", 400.0))
    ]
    said = sentence(World({"cpu": Behaviour(), "cuda": Behaviour(ms=2.0)}, capacities=capacities))
    assert said.startswith("Within a p99 of 50 ms, cuda carries 400 requests/s and cpu carries 80.0 requests/s.")
