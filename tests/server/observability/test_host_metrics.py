"""The machine's CPU and memory under Triton's names, and the versions of what runs."""

from importlib.metadata import version
from pathlib import Path

from turnout_server.observability.host_metrics import BuildInfo, HostMetrics

MEMORY = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    250 kB\n"


def machine(root: Path, ticks: str, memory: str = MEMORY) -> Path:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "stat").write_text(f"cpu  {ticks}\ncpu0 1 2 3\n")
    (root / "proc" / "meminfo").write_text(memory)
    return root


def scraped(collector: HostMetrics) -> dict[str, float]:
    return {sample.name: sample.value for family in collector.collect() for sample in family.samples}


def test_the_utilisation_is_that_since_the_scrape_before(tmp_path: Path) -> None:
    collector = HostMetrics(machine(tmp_path, "0 0 0 0 0 0 0 0 0 0"))
    machine(tmp_path, "30 0 10 50 5 0 5 0 0 0")  # 45 of 100 ticks busy
    assert scraped(collector)["nv_cpu_utilization"] == 0.45
    machine(tmp_path, "40 0 10 140 5 0 5 0 0 0")  # 10 more of 100
    assert scraped(collector) == {
        "nv_cpu_utilization": 0.1,
        "nv_cpu_memory_total_bytes": 1000 * 1024,
        "nv_cpu_memory_used_bytes": 750 * 1024,
    }


def test_a_scrape_right_after_another_shows_the_same(tmp_path: Path) -> None:
    collector = HostMetrics(machine(tmp_path, "0 0 0 0 0 0 0 0"))
    machine(tmp_path, "10 0 0 10 0 0 0 0")
    assert scraped(collector) == scraped(collector)


def test_without_proc_there_are_no_metrics(tmp_path: Path) -> None:
    assert scraped(HostMetrics(tmp_path)) == {}


def test_a_kernel_without_available_memory_shows_none(tmp_path: Path) -> None:
    assert scraped(HostMetrics(machine(tmp_path, "1 1 1 1 1 1 1 1", "MemTotal: 1000 kB\n"))) == {}


def test_the_build_info_has_the_versions_that_run() -> None:
    (family,) = BuildInfo("aio").collect()
    (sample,) = family.samples
    assert sample.value == 1
    assert sample.labels["version"] == version("turnout")
    assert sample.labels["grpcio"] == version("grpcio")
    assert sample.labels["transport"] == "aio"
    assert "unknown" not in sample.labels.values()
