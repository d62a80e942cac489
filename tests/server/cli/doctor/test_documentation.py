"""docs/operations.md says what is so."""

import inspect
import re
from pathlib import Path

from turnout_server import settings_sources
from turnout_server.cli.doctor import findings, gpufindings
from turnout_server.core import metrics
from turnout_server.observability import model_metrics as modelmetrics
from turnout_server.settings import DeviceSettings

TEXT = (Path(__file__).parents[4] / "docs" / "operations.md").read_text()


def first_cells(header: str) -> str:
    """The first column of the table with this first heading."""
    rows = TEXT.split(f"| {header} |")[1].split("\n\n")[0].splitlines()[2:]
    return " ".join(row.split("|")[1] for row in rows)


def test_the_example_declares_devices(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert example
    file = tmp_path / "turnout.toml"
    file.write_text(example[1].replace('"models"', f'"{tmp_path}"').replace('cpus = "0"\n', ""))  # core 0 may not be ours
    names = [device.name for device in settings_sources.read_for_doctor([f"--config={file}"]).declared_devices()]
    assert names == ["cpu", "cpu:slow", "cuda:0", "tensorrt:0", "npu:0"]


def test_every_key_of_a_device_is_explained() -> None:
    assert set(re.findall(r"`(\w+)`", first_cells("key"))) == set(DeviceSettings.model_fields)


def test_every_code_of_a_finding_is_listed() -> None:
    source = inspect.getsource(findings) + inspect.getsource(gpufindings)
    codes = set(re.findall(r'Finding\(\s*"[a-z]+",\s*"([a-z-]+)"', source))
    assert set(re.findall(r"`([a-z-]+)`", first_cells("code"))) == codes


def test_every_metric_of_ours_is_listed() -> None:
    source = inspect.getsource(metrics) + inspect.getsource(modelmetrics)
    names = set(re.findall(r'"(turnout_\w+)"', source))
    assert {name.removesuffix("_total") for name in re.findall(r"`(turnout_\w+)`", first_cells("name"))} == names
