"""What is known of each device: provider, threads, instances, price and power; and where each number comes from."""

import json
import re
import tomllib
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from turnout_proto.methods import Stub

from turnout_loadtests.client import devices_of, model_config
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.payloads import split_precision
from turnout_loadtests.quantities import PowerModel

CPU, GPU, NPU = "cpu", "gpu", "npu"
GPU_KINDS = ("cuda", "tensorrt", "migraphx")
#: What devices of these kinds compute on. OpenVINO does so on a CPU, unless the settings state other hardware.
HARDWARE_OF_KINDS = {"cpu": CPU, "openvino": CPU, **dict.fromkeys(GPU_KINDS, GPU)}
#: What ONNX Runtime's providers compute on, as far as it is always the same.
HARDWARE_OF_PROVIDERS = {
    f"{name}ExecutionProvider": hardware
    for hardware, names in (
        (CPU, ("CPU", "Dnnl", "XNNPACK", "ACL", "ArmNN")),
        (GPU, ("CUDA", "Tensorrt", "NvTensorRTRTX", "ROCM", "MIGraphX", "WebGpu", "Dml")),
    )
    for name in names
}
BY_SETTINGS = "the server's settings"
BY_OPTION = "command line"
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class DeviceFacts:
    """A device as requests name it, and what it is; None or empty for what isn't known.

    Attributes:
        name: as asked for; `answers_as` is the device that it means for a model, such as `cuda:0` for `cuda`.
        price_source, power_source: who stated the price and the watts.
        hardware: `cpu`, `gpu` or `npu`, as server and settings say; empty if they don't.
    """

    name: str
    answers_as: str = ""
    provider: str = ""
    threads: int | None = None
    instances: int | None = None
    price_per_hour: float | None = None
    price_source: str = ""
    power: PowerModel | None = None
    power_source: str = ""
    hardware: str = ""

    @property
    def kind(self) -> str:
        """The part of its name before the colon."""
        return split_precision(self.answers_as or self.name)[0].partition(":")[0]

    @property
    def is_gpu(self) -> bool:
        """Whether it is known to compute on a GPU, so that senders on the same machine don't take its cores."""
        return self.computes_on == GPU

    @property
    def is_cpu(self) -> bool:
        """Whether it is known to compute on a CPU."""
        return self.computes_on == CPU

    @property
    def computes_on(self) -> str:
        """The hardware; by kind and provider where it isn't stated, as in results of an older Turnout. Empty if not known."""
        return self.hardware or HARDWARE_OF_KINDS.get(self.kind) or _hardware_of([self.provider])

    def described(self, precisions: list[str]) -> str:
        """The device with what tells it from others, such as `cpu (2 threads, 1 instance, CPUExecutionProvider, fp32)`."""
        parts = [
            f"{self.threads} thread{'s' * (self.threads != 1)}" if self.threads is not None else "",
            f"{self.instances} instance{'s' * (self.instances != 1)}" if self.instances is not None else "",
            self.provider,
            "/".join(precisions),
        ]
        known = ", ".join(part for part in parts if part)
        return f"{self.name} ({known})" if known else self.name


def facts_of(
    name: str, model: str, stub: Stub, metrics: str, settings: Mapping[str, Any], cores: int | None = None
) -> DeviceFacts:
    """What the server says of a device that runs a model, and what its settings file says.

    Args:
        settings: the tables of devices in the file, by name.
        cores: those that the server may use, which are the threads of a CPU device by default; None if they aren't known.
    """
    candidates, (device, _) = devices_of(stub, model), split_precision(name)
    meant = device if device in candidates else next((d for d in candidates if d.partition(":")[0] == device), "")
    table = settings.get(meant or device, {})
    idle_w, busy_w = table.get("idle_w"), table.get("busy_w")
    power = None if idle_w is None or busy_w is None else PowerModel(float(idle_w), float(busy_w))
    price = table.get("price_per_hour")
    nodes, kind = _nodes(stub, model, meant), (meant or device).partition(":")[0]
    return DeviceFacts(
        name=name,
        answers_as=meant,
        provider=max(nodes, key=lambda provider: nodes[provider], default=""),
        threads=_threads(table, kind, cores),
        instances=table.get("instances") or _instances(metrics, model, meant),
        price_per_hour=None if price is None else float(price),
        price_source="" if price is None else BY_SETTINGS,
        power=power,
        power_source="" if power is None else BY_SETTINGS,
        hardware=_stated_hardware(table) or HARDWARE_OF_KINDS.get(kind) or _hardware_of([table.get("provider", ""), *nodes]),
    )


def with_options(facts: DeviceFacts, prices: Mapping[str, float], cpu_power: PowerModel | None) -> DeviceFacts:
    """The facts with what the user stated, which counts more than the server's settings. A price may be of the kind."""
    for name in (facts.name, split_precision(facts.name)[0], facts.answers_as, facts.kind):
        if name in prices:
            facts = replace(facts, price_per_hour=prices[name], price_source=BY_OPTION)
            break
    if cpu_power is not None and facts.is_cpu:
        facts = replace(facts, power=cpu_power, power_source=BY_OPTION)
    return facts


def read_settings(path: Path | None) -> dict[str, dict[str, Any]]:
    """The tables of the devices in the server's settings file, by name; none without a file.

    Raises:
        LoadTestError: the file can't be read.
    """
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("devices", {})
    except (OSError, ValueError) as error:
        raise LoadTestError(f"--config {path}: {error}") from error
    return {name: table for name, table in tables.items() if isinstance(table, dict)}


def _threads(table: Mapping[str, Any], kind: str, cores: int | None) -> int | None:
    """The threads of a run, as the table states them, or by the server's default for a CPU device."""
    stated: int | None = table.get("threads")
    return cores if stated is None and kind == "cpu" and not table.get("cpus") else stated


def _stated_hardware(table: Mapping[str, Any]) -> str:
    """What the settings say that a provider computes on: by `hardware`, or OpenVINO's option `device_type`."""
    option = str(dict(table.get("provider_options", {})).get("device_type", "")).lower().partition(".")[0]
    return str(table.get("hardware") or (option if option in (CPU, GPU, NPU) else ""))


def _hardware_of(providers: Iterable[str]) -> str:
    """What a device computes on by the providers that run its nodes; a few of an accelerator's may be left to the CPU."""
    found = [HARDWARE_OF_PROVIDERS.get(provider, "") for provider in providers if provider]
    if GPU in found:
        return GPU
    return CPU if found and set(found) == {CPU} else ""


def _nodes(stub: Stub, model: str, device: str) -> dict[str, int]:
    """How many nodes of the model each provider runs, from the report in the model's configuration."""
    config = model_config(stub, model)
    key = f"turnout.report.{device}"
    if config is None or key not in config.parameters:
        return {}
    found = re.findall(r"(\d+) on (\w+)", config.parameters[key].string_value)
    return {provider: int(count) for count, provider in found}


def _instances(metrics: str, model: str, device: str) -> int | None:
    """How many runs of the model the device may have in progress, from the server's explanation."""
    if not metrics or not device:
        return None
    query = urllib.parse.urlencode({"model": model})
    try:
        with urllib.request.urlopen(f"http://{metrics}/explain?{query}", timeout=TIMEOUT_S) as answer:
            devices = json.loads(answer.read())["devices"]
        return next((int(found["instances"]) for found in devices if found["name"] == device), None)
    except (OSError, ValueError, KeyError, TypeError):
        return None
