from pathlib import Path

from turnout_loadtests.measuring.energy import (
    NOT_MEASURABLE,
    NVML_COUNTER,
    NVML_POWER,
    RAPL,
    Energy,
    RaplCounter,
    first_known,
    gpu_energy,
    modelled,
    rapl_energy,
    read_rapl,
)  # fmt: skip
from turnout_loadtests.quantities import PowerModel


def test_the_energy_counter_comes_before_the_power() -> None:
    watts = [(0.0, {"a": 100.0}), (1.0, {"a": 100.0})]
    assert gpu_energy({"a": 50.0}, {"a": 90.0}, watts) == Energy(40.0, NVML_COUNTER)
    assert gpu_energy({}, {}, watts) == Energy(100.0, NVML_POWER)
    assert gpu_energy({}, {}, watts[:1]) == Energy(None, NOT_MEASURABLE)


def test_power_is_integrated_over_the_time_between_readings() -> None:
    watts = [(0.0, {"a": 100.0, "b": 10.0}), (2.0, {"a": 200.0, "b": 10.0}), (3.0, {"a": 200.0, "b": 10.0})]
    assert gpu_energy({}, {}, watts).joules == 2 * 160 + 210


def test_a_counter_that_began_again_is_counted_on() -> None:
    before = {"p": RaplCounter(9_000_000, 9_999_999)}
    assert rapl_energy(before, {"p": RaplCounter(1_000_000, 9_999_999)}) == Energy(2.0, RAPL)
    assert rapl_energy(before, {"p": RaplCounter(9_500_000, 9_999_999)}) == Energy(0.5, RAPL)
    assert rapl_energy(before, {}) == Energy()


def test_packages_are_read_and_their_parts_left_out(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("5\n")
        (tmp_path / name / "max_energy_range_uj").write_text("100\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert read_rapl(tmp_path) == {"intel-rapl:0": RaplCounter(5, 100)}
    assert read_rapl(tmp_path / "missing") == {}


def test_a_model_is_the_users_and_is_called_modelled() -> None:
    assert modelled(PowerModel(20.0, 100.0), 0.5, 10.0, "command line") == Energy(600.0, "modelled, command line")
    assert modelled(None, 0.5, 10.0, "") == modelled(PowerModel(1.0, 2.0), None, 10.0, "") == Energy()


def test_without_a_source_there_is_no_number() -> None:
    assert first_known(Energy(), Energy()).joules is None
    assert first_known(Energy(), Energy(5.0, RAPL), Energy(6.0, "other")).source == RAPL
    assert Energy(50.0, RAPL).watts(10.0) == 5.0
    assert Energy().watts(10.0) is None
