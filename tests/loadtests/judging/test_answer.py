"""The answer in every form that it has; capacities and prices are made up, so that its numbers can be worked out by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from turnout_loadtests.judging.answer import NEEDED, NO, OPEN, UNDECIDED, YES, Answer, Question, answer
from turnout_loadtests.judging.cells import INVALID, LIMITED
from turnout_loadtests.judging.ladder import carried, keeps, shown_targets
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.measuring.devices import DeviceFacts
from turnout_loadtests.reporting.conclusions import carries, evidence_of
from turnout_loadtests.reporting.results import UNAVAILABLE, Gap
from turnout_loadtests.sending.load import OPEN as OPEN_LOAD

from tests.loadtests.made import QUIET, Behaviour, World, cell

TARGET_MS = 50.0
PRICES = {"cpu": 0.34, "cuda": 1.20}
NO_GPU = [Gap("resnet50", "cuda", 0, UNAVAILABLE, "no NVIDIA driver")]


def asked(
    capacities: dict[str, float | None],
    prices: dict[str, float] | None = None,
    loads: Sequence[float] = (),
    target_ms: float | None = TARGET_MS,
    gaps: Sequence[Gap] = (),
    broken: Sequence[str] = (),
    searched: bool = True,
) -> Answer:
    """The answer about devices that carry so much within 50 ms; 0 if they miss it at 5/s."""
    prices = prices or {}
    facts = {name: DeviceFacts(name, name, "P", 2, 1, price_per_hour=prices.get(name)) for name in capacities}
    made = World(
        {name: Behaviour(fails_share=0.6 if name in broken else 0.0) for name in capacities}, facts,
        rounds=3, window_s=1.0, gaps=gaps,
    ).results()  # fmt: skip
    carries = {
        (name, TARGET_MS): Capacity(
            "resnet50", name, 1, TARGET_MS, per_s, None if per_s is None else per_s * 1.04 or 5.0, 9, "too noisy"
        )
        for name, per_s in capacities.items()
    }
    evidence = evidence_of(made, "resnet50")
    return answer(evidence, carries, Question(target_ms, loads, prices, searched))


def whole(found: Answer) -> str:
    return " ".join([found.headline, *found.lines])


def test_one_cpu_is_enough_up_to_70_percent_of_its_capacity() -> None:
    found = asked({"cpu": 620.0, "cuda": 4000.0}, PRICES)
    assert found.kind == NO
    assert found.headline == "No, not for up to 434 requests/s at p99 ≤ 50 ms."
    assert (
        found.lines[0]
        == "One CPU (2 threads, 1 instance, P, fp32) carries 434 requests/s, or 620 without the reserve of 30\u00a0%."
    )


def test_the_break_even_is_where_the_cost_table_has_it() -> None:
    found = asked({"cpu": 100.0, "cuda": 2000.0}, PRICES)
    assert found.lines[-1] == (
        "Above 210 requests/s one GPU is cheaper than 4 CPUs at your prices (1.20 against 1.36 an hour), "
        "and so it stays at any greater load."
    )


@pytest.mark.parametrize(
    ("cpu_per_s", "gpu_per_s", "gpu_price", "said"),
    [
        (100.0, 1000 / 7, 0.60, "At your prices the GPU is cheaper only between 70.0 and 100 requests/s."),
        (0.4 / 0.7, 0.6 / 0.7, 0.60, "At your prices the GPU is cheaper only between 0.400 and 0.600 requests/s."),
        (
            0.5 / 0.7,
            10.0,
            0.60,
            "Above 0.500 requests/s one GPU is cheaper than 2 CPUs at your prices (0.60 against 0.68 an hour)",
        ),
        (100.0, 50.0, 0.30, "At your prices the GPU is cheaper only up to 35.0 requests/s."),
    ],
)
def test_the_sentence_on_the_break_even_is_true_at_every_load(
    cpu_per_s: float, gpu_per_s: float, gpu_price: float, said: str
) -> None:
    assert asked({"cpu": cpu_per_s, "cuda": gpu_per_s}, {"cpu": 0.34, "cuda": gpu_price}).lines[-1].startswith(said)


def test_without_prices_none_is_invented() -> None:
    found = asked({"cpu": 100.0, "cuda": 2000.0})
    assert found.kind == NO
    assert found.lines[-1] == "Which costs less is not known: pass --price cpu=…/h --price cuda=…/h."
    assert "cheaper" not in whole(found)


@pytest.mark.parametrize(
    ("load", "kind", "headline"),
    [
        (60.0, NO, "No, not for 60 requests/s at p99 ≤ 50 ms: one CPU is enough."),
        (200.0, NO, "No, not for 200 requests/s at p99 ≤ 50 ms: 3 CPUs (1.02/h) cost no more than one GPU (1.20/h)."),
        (211.0, YES, "Yes, for 211 requests/s at p99 ≤ 50 ms: one GPU (1.20/h) costs less than 4 CPUs (1.36/h)."),
        (2000.0, YES, "Yes, for 2000 requests/s at p99 ≤ 50 ms: 2 GPUs (2.40/h) cost less than 29 CPUs (9.86/h)."),
    ],
)
def test_a_load_is_answered_by_what_it_costs(load: float, kind: str, headline: str) -> None:
    found = asked({"cpu": 100.0, "cuda": 2000.0}, PRICES, [load])
    assert (found.kind, found.headline) == (kind, headline)


def test_a_load_beyond_one_cpu_without_prices_is_open() -> None:
    found = asked({"cpu": 100.0, "cuda": 2000.0}, None, [500.0])
    assert (found.kind, found.headline) == (OPEN, "500 requests/s at p99 ≤ 50 ms take 8 CPUs or one GPU.")


def test_loads_beyond_one_cpu_have_a_line_each_and_the_largest_decides() -> None:
    found = asked({"cpu": 100.0, "cuda": 2000.0}, PRICES, [500.0, 150.0, 50.0])
    assert found.kind == YES
    assert "No, not for 150 requests/s at p99 ≤ 50 ms: 3 CPUs (1.02/h) cost no more than one GPU (1.20/h)." in found.lines
    assert "50 requests" not in whole(found).replace("150 requests", "")  # one CPU carries 70/s, as the first line says


def test_needs_is_said_only_where_the_cpu_misses_the_target_even_at_low_load() -> None:
    found = asked({"cpu": 0.0, "cuda": 2000.0}, PRICES)
    assert (found.kind, found.headline) == (NEEDED, "Yes, it needs one: the CPU misses p99 ≤ 50 ms even at 5.00/s.")
    assert "1\N{NO-BREAK SPACE}400 requests/s" in found.lines[0]
    assert asked({"cpu": 0.0, "cuda": 0.0}).headline.startswith("Neither keeps p99 ≤ 50 ms")
    for load in (1.0, 1e5):
        assert asked({"cpu": 100.0, "cuda": 2000.0}, PRICES, [load]).kind != NEEDED


def bounded(device: str, beyond_per_s: float) -> Capacity:
    """What is known of a device that kept none of the rates tried."""
    return Capacity("resnet50", device, 1, TARGET_MS, None, beyond_per_s, 9, f"{beyond_per_s:g}/s was missed")


def of(capacities: Sequence[Capacity], ms: float = 10.0, **question: Any) -> Answer:
    """The answer about devices with these capacities, which take so long for one request."""
    names = [each.device for each in capacities]
    prices = question.get("prices", {})
    providers = question.pop("providers", {})
    facts = {name: DeviceFacts(name, name, providers.get(name, "P"), 2, 1, price_per_hour=prices.get(name)) for name in names}
    made = World({name: Behaviour(ms=ms) for name in names}, facts, rounds=3, window_s=0.1 * ms).results()
    carries = {(each.device, TARGET_MS): each for each in capacities}
    return answer(evidence_of(made, "resnet50"), carries, Question(TARGET_MS, **question))


def exactly(device: str, per_s: float) -> Capacity:
    return Capacity("resnet50", device, 1, TARGET_MS, per_s, per_s * 1.04 or 5.0, 9)


def test_a_cpu_that_missed_the_rates_tried_may_keep_a_lower_one() -> None:
    for searched in (True, False):
        found = of([bounded("cpu", 150.0), exactly("cuda", 2000.0)], searched=searched)
        assert (found.kind, found.headline) == (
            UNDECIDED, "Undecided: what one CPU carries isn't known: 150/s was missed.",
        )  # fmt: skip
        assert "1\N{NO-BREAK SPACE}400 requests/s" in found.lines[0]
        assert "Measure lower rates" in found.lines[1]


def test_one_cpu_of_unknown_capacity_may_keep_what_another_misses() -> None:
    found = of([exactly("cpu", 0.0), bounded("openvino", 80.0), exactly("cuda", 2000.0)])
    assert (found.kind, "what one openvino carries isn't known" in found.headline) == (UNDECIDED, True)


def test_where_one_request_at_a_time_misses_the_target_it_says_so() -> None:
    found = of([exactly("cpu", 0.0), exactly("cuda", 2000.0)], ms=100.0)
    assert found.kind == NEEDED
    assert found.headline == "Yes, it needs one: the CPU misses p99 ≤ 50 ms even with one request at a time."


def at_least(device: str, per_s: float, beyond_per_s: float | None = None) -> Capacity:
    """What a search found that ended early."""
    return Capacity("resnet50", device, 1, TARGET_MS, per_s, beyond_per_s, 9, "ended early: senders busy")


@pytest.mark.parametrize(
    ("cpu", "load", "kind", "headline"),
    [
        (at_least("cpu", 50.0), 500.0, OPEN,
         "500 requests/s at p99 ≤ 50 ms take at most 15 CPUs (5.10/h) or one GPU (1.20/h); which costs less isn't known."),
        (at_least("cpu", 50.0, 100.0), 500.0, YES,
         "Yes, for 500 requests/s at p99 ≤ 50 ms: one GPU (1.20/h) costs less than 8 to 15 CPUs (2.72 to 5.10/h)."),
        (at_least("cpu", 50.0, 400.0), 500.0, OPEN,
         "500 requests/s at p99 ≤ 50 ms take 2 to 15 CPUs (0.68 to 5.10/h) or one GPU (1.20/h); which costs less isn't known."),
        (at_least("cpu", 50.0, 100.0), 100.0, NO,
         "No, not for 100 requests/s at p99 ≤ 50 ms: 2 to 3 CPUs (0.68 to 1.02/h) cost no more than one GPU (1.20/h)."),
        (at_least("cpu", 50.0), 30.0, NO, "No, not for 30 requests/s at p99 ≤ 50 ms: one CPU is enough."),
        (bounded("cpu", 150.0), 600.0, YES,
         "Yes, for 600 requests/s at p99 ≤ 50 ms: one GPU (1.20/h) costs less than at least 6 CPUs (2.04/h)."),
        (bounded("cpu", 150.0), 200.0, UNDECIDED, "Undecided: what one CPU carries isn't known: 150/s was missed."),
    ],
)  # fmt: skip
def test_a_capacity_that_may_be_more_decides_only_what_holds_for_all_that_it_may_be(
    cpu: Capacity, load: float, kind: str, headline: str
) -> None:
    found = of([cpu, exactly("cuda", 2000.0)], prices=PRICES, loads_per_s=[load])
    assert (found.kind, found.headline) == (kind, headline)


def test_a_gpu_that_may_carry_more_is_not_dearer_for_sure() -> None:
    found = of([exactly("cpu", 100.0), at_least("cuda", 60.0)], prices=PRICES, loads_per_s=[400.0])
    assert (found.kind, "at most 10 GPUs (12.00/h)" in found.headline) == (OPEN, True)
    assert "Above which load the GPU costs less isn't known: one GPU may carry more." in found.lines


def test_another_cpu_of_unknown_capacity_may_be_the_cheaper_one() -> None:
    known, gpu = exactly("cpu", 100.0), exactly("cuda", 2000.0)
    prices = {**PRICES, "openvino": 0.34}
    for unknown, kind in ((bounded("openvino", 4000.0), OPEN), (bounded("openvino", 120.0), YES)):
        assert of([known, unknown, gpu], prices=prices, loads_per_s=[500.0]).kind == kind


def test_the_break_even_with_a_cpu_that_may_carry_more_is_that_of_the_most_it_may() -> None:
    gpu = exactly("cuda", 2000.0)
    open_ended = of([at_least("cpu", 50.0), gpu], prices=PRICES)
    assert "one CPU may carry more" in open_ended.lines[-1]
    assert "What more it carries isn't known: ended early: senders busy." in open_ended.lines[0]
    told = of([at_least("cpu", 50.0, 100.0), gpu], prices=PRICES)
    assert told.lines[-1].startswith("Above 210 requests/s one GPU is cheaper than 4 CPUs or more at your prices")


WEBGPU = {"webgpu:0": "WebGpuExecutionProvider"}


def test_a_gpu_of_any_provider_is_one() -> None:
    capacities = [exactly("cpu", 100.0), exactly("webgpu:0", 2000.0)]
    found = of(capacities, providers=WEBGPU, prices={"cpu": 0.34, "webgpu:0": 1.2}, loads_per_s=[500.0])
    assert (found.kind, found.headline) == (
        YES, "Yes, for 500 requests/s at p99 ≤ 50 ms: one webgpu:0 (1.20/h) costs less than 8 CPUs (2.72/h).",
    )  # fmt: skip


def test_a_device_of_unknown_hardware_answers_neither_no_nor_yes() -> None:
    found = of([exactly("cpu", 100.0), exactly("npu:0", 2000.0)])
    assert found.headline == "No, not for up to 70.0 requests/s at p99 ≤ 50 ms."  # by the CPU alone
    assert "npu:0 counts neither as a CPU nor as a GPU: the server doesn't say which." in found.lines
    alone = of([exactly("npu:0", 2000.0)])
    assert (alone.kind, alone.headline) == (OPEN, "Not decided: npu:0 may be a CPU or a GPU, or neither.")


@pytest.mark.parametrize(("cpu_per_s", "kind"), [(100.0, NO), (0.0, OPEN)])
def test_a_gpu_that_was_measured_but_not_searched_to_an_end_is_not_called_unmeasured(cpu_per_s: float, kind: str) -> None:
    found = asked({"cpu": cpu_per_s, "cuda": None}, PRICES)
    assert found.kind == kind
    assert "hat one GPU carries isn't known: too noisy" in whole(found)
    assert "not measured" not in whole(found)
    assert "No GPU was measured" not in whole(found)


def test_a_gpu_that_is_slower_is_said_to_be_cheaper_at_no_load() -> None:
    found = asked({"cpu": 100.0, "cuda": 60.0}, PRICES)
    assert found.kind == NO
    assert found.lines[-1] == "At your prices the GPU is cheaper at no load."
    assert "misses the target even at low load" in whole(asked({"cpu": 100.0, "cuda": 0.0}, PRICES))


def test_without_a_gpu_the_cpus_half_stands_and_what_a_gpu_would_have_to_carry() -> None:
    found = asked({"cpu": 100.0}, PRICES, gaps=NO_GPU)
    assert found.kind == NO
    assert found.headline == "No, not for up to 70.0 requests/s at p99 ≤ 50 ms."
    assert "a GPU at 1.20/h must carry over 353 requests/s, 3.53 times as many." in whole(found)
    assert "GPU was not measured: no NVIDIA driver." in found.lines
    unpriced = asked({"cpu": 100.0}, None, gaps=NO_GPU)
    assert "No GPU was measured" in whole(unpriced)
    beyond = asked({"cpu": 100.0}, PRICES, [500.0], gaps=NO_GPU)
    assert (beyond.kind, beyond.headline) == (
        OPEN, "500 requests/s at p99 ≤ 50 ms take 8 CPUs, or a GPU that is fast enough.",
    )  # fmt: skip


def test_the_gpu_alone_is_one_half() -> None:
    found = asked({"cuda": 2000.0}, PRICES)
    assert (found.kind, found.headline) == (OPEN, "Only one half is known: the CPU was not measured.")


def test_the_best_device_without_a_gpu_speaks_for_them_all() -> None:
    found = asked({"cpu": 100.0, "openvino": 300.0, "cuda": 2000.0}, {**PRICES, "openvino": 0.34})
    assert found.headline == "No, not for up to 210 requests/s at p99 ≤ 50 ms."
    assert found.lines[0].startswith("One openvino (")


def test_an_invalid_measurement_decides_nothing() -> None:
    found = asked({"cpu": 0.0, "cuda": 2000.0}, PRICES, broken=["cpu"])
    assert found.kind == OPEN
    assert "CPU has no valid measurement" in whole(found)
    nothing = asked({"cpu": 100.0}, PRICES, broken=["cpu"])
    assert (nothing.kind, nothing.headline) == (UNDECIDED, "Undecided: no device has a valid measurement.")


def test_a_busy_machine_gets_advice() -> None:
    busy = Behaviour(machine=replace(QUIET, other_work_percent=80.0))
    made = World({"cpu": busy}, rounds=3, window_s=1.0).results()
    found = answer(evidence_of(made, "resnet50"), {}, Question(TARGET_MS))
    assert (found.kind, found.lines[0]) == (UNDECIDED, "Stop what else runs on this machine, and measure again.")
    assert found.lines[1] == "CPU has no valid measurement: disturbed: other processes took 80 % of the cores' time."


def test_a_search_without_a_result_is_undecided() -> None:
    found = asked({"cpu": None, "cuda": 2000.0}, PRICES)
    assert found.kind in (UNDECIDED, OPEN)
    assert not found.headline.startswith(("No", "Yes")) or found.headline.startswith("Not decided")


def test_without_a_target_nothing_is_invented() -> None:
    capacity = Capacity("resnet50", "cpu", 1, 250.0, 90.0, 94.0)
    evidence = evidence_of(World({"cpu": Behaviour()}, rounds=3, window_s=1.0).results(), "resnet50")
    carries = {
        ("cpu", target): Capacity("resnet50", "cpu", 1, target, per_s, per_s * 2)
        for target, per_s in ((25.0, 20.0), (50.0, 40.0), (100.0, 80.0), (250.0, capacity.per_s or 0))
    }
    found = answer(evidence, carries, Question())
    assert found.kind == OPEN
    assert found.headline == "One CPU serves 20.0 / 40.0 / 80.0 / 90.0 requests/s within 25 / 50 / 100 / 250 ms p99."
    assert "Give --slo-p99" in found.lines[0]


def test_the_quick_profile_says_that_it_does_not_decide() -> None:
    evidence = evidence_of(World({"cpu": Behaviour()}, rounds=3, window_s=1.0).results(), "resnet50")
    found = answer(evidence, {}, Question(searched=False))
    assert (found.kind, found.headline.startswith("Not decided: the quick profile")) == (OPEN, True)
    assert found.lines[0].startswith("One CPU (2 threads, 1 instance, CPUExecutionProvider, fp32) answers ")
    assert "ms for one request at a time (p50)." in found.lines[0]


def test_a_load_that_was_measured_within_the_target_answers_without_a_search() -> None:
    made = World({"cpu": Behaviour()}, loads_per_s=(60.0,), rounds=4).results()
    found = answer(evidence_of(made, "resnet50"), {}, Question(TARGET_MS, (60.0,), searched=False))
    assert (found.kind, found.headline) == (NO, "No, not for 60 requests/s at p99 ≤ 50 ms: one CPU keeps them.")
    missed = answer(evidence_of(made, "resnet50"), {}, Question(5.0, (60.0,), searched=False))
    assert missed.kind == OPEN


def loaded(target_ms: float, loads: Sequence[float], **devices: Behaviour) -> Answer:
    """The answer of a profile without a search about loads at a rate."""
    made = World(devices, loads_per_s=tuple(loads), rounds=4, target_ms=target_ms, in_flight_at_rate=20_000).results()
    evidence = evidence_of(made, "resnet50")
    return answer(evidence, carries(made, evidence), Question(target_ms, loads, searched=False))


SERIAL = Behaviour(ms=11.4, queues=True)  # 88 a second at most


def test_a_load_that_a_device_falls_behind_is_not_kept_however_long_the_target() -> None:
    """In four seconds the queue of 100/s grows to half a second only."""
    found = loaded(2000.0, [100.0], cpu=SERIAL)
    assert (found.kind, found.headline) == (OPEN, "100 requests/s at p99 ≤ 2000 ms are more than one CPU carries.")
    assert "requests/s were answered" in found.lines[0]
    assert loaded(2000.0, [60.0], cpu=SERIAL).kind == NO


def test_the_largest_load_decides_and_not_the_largest_that_was_kept() -> None:
    found = loaded(200.0, [30.0, 300.0], cpu=SERIAL, cuda=Behaviour(ms=2.0))
    assert (found.kind, found.headline) == (OPEN, "300 requests/s at p99 ≤ 200 ms are more than one CPU carries.")
    assert found.lines[0].startswith("One CPU keeps 30 requests/s: its p99 is at most ")
    assert any(line.startswith("One GPU keeps 300 requests/s: its p99 is at most 2.") for line in found.lines)


def test_a_load_must_be_kept_in_every_round() -> None:
    made = World({"cpu": Behaviour()}, loads_per_s=(60.0,), rounds=4).results()
    (load,) = [each for each in made.summaries if each.key.rate_per_s]
    assert keeps(load, 50.0) is True
    late = replace(load, p99s={**load.p99s, "2": 60.0})
    assert keeps(late, 50.0) is False
    assert keeps(replace(load, dropped=1), 50.0) is False
    assert keeps(replace(late, state=LIMITED), 50.0) is None  # the device may be faster
    assert keeps(replace(load, state=INVALID), 50.0) is None


def test_the_loads_of_a_search_tell_about_other_targets() -> None:
    loads = [
        cell(Behaviour(ms=ms, scatter=0.1), arrival=OPEN_LOAD, rate_per_s=rate, in_flight=500, duration_s=6.0, target_ms=250.0)
        for rate, ms in ((100.0, 10.0), (200.0, 30.0), (400.0, 150.0))
    ]
    found = {target: carried(loads, [], "resnet50", "cpu", target) for target in shown_targets(70.0)}
    rates = {target: (each.per_s, each.beyond_per_s) for target, each in found.items() if each}
    assert found[250.0] is None  # no load was missed, so it may be any rate above
    assert rates == {25.0: (100, 200), 50.0: (200, 400), 70.0: (200, 400), 100.0: (200, 400)}
    exact = Capacity("resnet50", "cpu", 1, 50.0, 222.0, 230.0)
    assert carried(loads, [exact], "resnet50", "cpu", 50.0) == exact
    assert carried(loads, [], "resnet50", "other", 50.0) is None
