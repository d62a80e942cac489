"""The pages for operators list what there is: settings, findings of the doctor, metrics, flags of explain."""

import inspect
import re
from pathlib import Path

from turnout_server.cli.doctor import findings, gpufindings
from turnout_server.core import metrics
from turnout_server.observability import gpu_metrics, host_metrics, model_metrics, triton_metrics
from turnout_server.settings import DeviceSettings, Settings

from tests.server.commandline import read_for_doctor

DOCS = Path(__file__).parents[4] / "docs"
SETTINGS, DOCTOR, METRICS = ((DOCS / f"{page}.md").read_text() for page in ("settings", "doctor-and-explain", "metrics"))


def first_cells(page: str, header: str) -> str:
    """The first column of every table whose first heading begins like this."""
    tables = re.findall(rf"^\| {header}.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert tables
    return " ".join(row.split("|")[1] for table in tables for row in table.splitlines())


def test_the_example_declares_devices(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", SETTINGS, re.DOTALL)
    assert example
    file = tmp_path / "turnout.toml"
    file.write_text(example[1].replace('"models"', f'"{tmp_path}"').replace('cpus = "0"\n', ""))  # core 0 may not be ours
    names = [device.name for device in read_for_doctor([f"--config={file}"]).declared_devices()]
    assert names == ["cpu", "cpu:slow", "cuda:0", "tensorrt:0", "npu:0"]


def test_every_setting_is_listed() -> None:
    assert set(re.findall(r"`(\w+)`", first_cells(SETTINGS, "setting"))) == set(Settings.model_fields)


def test_every_key_of_a_device_is_explained() -> None:
    assert set(re.findall(r"`(\w+)`", first_cells(SETTINGS, "key"))) == set(DeviceSettings.model_fields)


def test_every_code_of_a_finding_is_listed() -> None:
    source = inspect.getsource(findings) + inspect.getsource(gpufindings)
    codes = set(re.findall(r'Finding\(\s*"[a-z]+",\s*"([a-z-]+)"', source))
    assert set(re.findall(r"`([a-z-]+)`", first_cells(DOCTOR, "code"))) == codes


def test_every_metric_of_ours_is_listed() -> None:
    source = inspect.getsource(metrics) + inspect.getsource(model_metrics)
    names = set(re.findall(r'"(turnout_\w+)"', source))
    listed = re.findall(r"`(turnout_\w+)`", first_cells(METRICS, "name"))
    assert {name.removesuffix("_total") for name in listed} == names


def test_every_metric_of_tritons_is_listed() -> None:
    source = inspect.getsource(triton_metrics) + inspect.getsource(gpu_metrics) + inspect.getsource(host_metrics)
    assert set(re.findall(r"`(nv_\w+)`", first_cells(METRICS, "name"))) == set(re.findall(r'"(nv_\w+)"', source))
