from pathlib import Path

import pytest
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.measuring.devices import DeviceFacts, _hardware_of, facts_of, read_settings, with_options
from turnout_loadtests.quantities import PowerModel
from turnout_proto.methods import Stub

SETTINGS = """
[devices.cpu]
price_per_hour = 0.34
idle_w = 20
busy_w = 95
threads = 4
instances = 2
"""


def test_facts_come_from_the_server_and_its_settings(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SETTINGS)
    facts = facts_of("cpu", "add", stub, "", read_settings(tmp_path / "s.toml"))
    assert (facts.answers_as, facts.provider, facts.threads, facts.instances) == ("cpu", "FakeExecutionProvider", 4, 2)
    assert (facts.price_per_hour, facts.price_source) == (0.34, "the server's settings")
    assert facts.power == PowerModel(20.0, 95.0)
    assert facts.described(["int8"]) == "cpu (4 threads, 2 instances, FakeExecutionProvider, int8)"


def test_a_precision_is_no_part_of_the_device(stub: Stub) -> None:
    facts = with_options(facts_of("cpu+int8", "add", stub, "", {"cpu": {"threads": 3}}), {"cpu": 0.3}, None)
    assert (facts.answers_as, facts.kind, facts.threads, facts.price_per_hour) == ("cpu", "cpu", 3, 0.3)


@pytest.mark.parametrize(
    ("name", "provider", "hardware"),
    [
        ("cpu", "", "cpu"),
        ("cpu:slow", "CPUExecutionProvider", "cpu"),
        ("cuda:1", "CPUExecutionProvider", "gpu"),  # most nodes were left to the CPU
        ("webgpu:0", "WebGpuExecutionProvider", "gpu"),
        ("radeon", "DmlExecutionProvider", "gpu"),
        ("mine", "CPUExecutionProvider", "cpu"),
        ("openvino", "OpenVINOExecutionProvider", "cpu"),
        ("coreml", "CoreMLExecutionProvider", ""),
        ("auto", "", ""),
    ],
)
def test_what_a_device_computes_on_follows_from_its_kind_or_its_provider(name: str, provider: str, hardware: str) -> None:
    facts = DeviceFacts(name, name, provider)
    assert (facts.computes_on, facts.is_gpu, facts.is_cpu) == (hardware, hardware == "gpu", hardware == "cpu")


@pytest.mark.parametrize(
    ("table", "hardware"),
    [
        ({"hardware": "gpu"}, "gpu"),
        ({"hardware": "npu", "provider": "WebGpuExecutionProvider"}, "npu"),
        ({"provider_options": {"device_type": "GPU.0"}}, "gpu"),
        ({"provider": "WebGpuExecutionProvider"}, "gpu"),
        ({}, ""),  # the server's report has a provider that nobody knows
    ],
)
def test_the_settings_say_what_a_device_computes_on(stub: Stub, table: dict[str, object], hardware: str) -> None:
    facts = facts_of("mine:0", "add", stub, "", {"mine:0": table})
    assert facts.computes_on == hardware
    assert (with_options(facts, {}, PowerModel(1, 2)).power is None) is (hardware != "cpu")  # the watts are the CPU's


def test_a_few_nodes_on_the_cpu_do_not_make_a_gpu_one() -> None:
    assert _hardware_of(["CPUExecutionProvider", "WebGpuExecutionProvider"]) == "gpu"
    assert _hardware_of(["CPUExecutionProvider", "OtherExecutionProvider"]) == _hardware_of([]) == ""


def test_what_nobody_stated_stays_unknown(stub: Stub) -> None:
    facts = facts_of("cpu", "add", stub, "", {})
    assert (facts.threads, facts.instances, facts.price_per_hour, facts.power) == (None, None, None, None)
    assert facts_of("cuda", "add", stub, "", {}).described([]) == "cuda"


def test_the_users_price_counts_more_and_may_be_of_a_kind() -> None:
    facts = DeviceFacts("cuda", "cuda:0", price_per_hour=9.0, price_source="the server's settings")
    assert with_options(facts, {"cuda": 1.2}, None).price_per_hour == 1.2
    assert with_options(facts, {"cuda:0": 1.3, "cpu": 0.3}, None).price_source == "command line"
    assert with_options(facts, {"cpu": 0.3}, PowerModel(1, 2)) == facts  # the CPU's watts aren't the GPU's
    assert with_options(DeviceFacts("cpu"), {}, PowerModel(1, 2)).power == PowerModel(1, 2)


def test_a_settings_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[devices")
    for name in ("bad.toml", "missing.toml"):
        with pytest.raises(LoadTestError, match=name):
            read_settings(tmp_path / name)
    assert read_settings(None) == {}
