"""Service times: measured profiles of a CPU, assumed profiles of GPUs, and assumed prices and watts."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from turnout_server.scheduling.profiles import Estimate

#: Written by `python -m benchmarks.cpu_profiles`; its `service_us` has the format of a profile cache (docs/operations.md,
#: `--cache-dir`).
CPU_PROFILES = Path(__file__).parent / "cpu-profiles.json"
MODELS = ("mlp", "resnet50", "encoder")
MAX_ROWS = 32
#: The batch sizes of the profiles.
SIZES = tuple(1 << bit for bit in range(MAX_ROWS.bit_length()))

CPU, GPU = "cpu", "cuda:0"
#: A profile as it is saved: by number of rows, the fields of an Estimate.
Saved = dict[str, dict[str, float]]


@dataclass(frozen=True)
class AssumedGpu:
    """A GPU that is assumed, not measured. A run takes the time `fixed_us`, plus a time for each row.

    Attributes:
        fixed_us: by model, the time of kernel launches, copies in both directions, and synchronisation.
        faster: the CPU's time per row, at its best batch size, divided by the GPU's.
        spread: the standard deviation of the logarithm of a run's time.
    """

    fixed_us: Mapping[str, float]
    faster: float
    spread: float = 0.03


#: ASSUMPTIONS, not measurements. `fixed_us` is about 8 us for each kernel launch, plus copies to the device process.
FIXED_US = {"mlp": 150.0, "resnet50": 1200.0, "encoder": 1000.0}
GPUS = {
    "small": AssumedGpu(FIXED_US, faster=3.0),  # an integrated or old GPU, or a large one beside ten times as many CPU cores
    "large": AssumedGpu(FIXED_US, faster=12.0),  # an inference card beside the two CPU cores that were measured
}
#: The number of runs that an assumed estimate claims to be based on.
ASSUMED_RUNS = 5

#: ASSUMPTIONS too, of the order of cloud prices and data sheets.
PRICE_PER_HOUR = {CPU: 0.10, GPU: 0.60}
IDLE_W = {CPU: 20.0, GPU: 15.0}
BUSY_W = {CPU: 95.0, GPU: 70.0}

#: The standard deviation of the logarithm of a run's time on the CPU.
CPU_SPREAD = 0.10


def cpu_profiles() -> dict[str, Saved]:
    """The committed profiles of the CPU, by model."""
    profiles: dict[str, Saved] = json.loads(CPU_PROFILES.read_text())["service_us"]
    return profiles


def cpu_provenance() -> dict[str, str]:
    """The machine that the CPU's profiles were measured on, the command, and the dates."""
    content = json.loads(CPU_PROFILES.read_text())
    dates = ", ".join(f"{model} {date}" for model, date in content["dates"].items())
    about: dict[str, str] = content["about"] | {"measured": dates}
    return about


def assumed(gpu: AssumedGpu, cpu: Mapping[str, Saved]) -> dict[str, Saved]:
    """The profiles of an assumed GPU, by model."""
    profiles = {}
    for model, saved in cpu.items():
        row_us = min(estimate["service_us"] / int(rows) for rows, estimate in saved.items()) / gpu.faster
        times_us = {rows: gpu.fixed_us[model] + rows * row_us for rows in SIZES}
        profiles[model] = {str(rows): asdict(_estimate(us, gpu.spread)) for rows, us in times_us.items()}
    return profiles


def _estimate(service_us: float, spread: float) -> Estimate:
    return Estimate(service_us, 0.67 * spread * service_us, service_us * (1 - 2 * spread), ASSUMED_RUNS)
