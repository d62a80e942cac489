"""How long runs take: measured profiles of the CPU, and an assumed one of a GPU."""

import json
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from turnout_server.devices import device as devices
from turnout_server.devices.sessions import OnnxSession
from turnout_server.models.warmup import timed_us
from turnout_server.scheduling.profiles import Estimate, Profile

from benchmarks import results
from benchmarks.cases import CASES

#: The profiles as they were measured once; the format of a service-time cache (docs/operations.md, `--cache-dir`).
MEASURED = Path(__file__).parent / "cpu-profiles.json"
MODELS = ("mlp", "resnet50", "encoder")
MAX_ROWS = 32
SIZES = tuple(1 << bit for bit in range(MAX_ROWS.bit_length()))

#: Rounds over all sizes, so that what disturbs the machine for a while disturbs none of them alone; short runs get more each.
ROUNDS, ROUND_US = 5, 2e4
#: Nothing is measured while others use more of the machine than this percentage; after so many seconds it is, anyway.
QUIET_PERCENT, DEFAULT_DUE_S = 10.0, 10.0

CPU, GPU = "cpu", "cuda:0"
Saved = dict[str, dict[str, float]]


@dataclass(frozen=True)
class AssumedGpu:
    """A GPU that nobody measured. A run takes `fixed_us` of its model, and for each row a part of what the CPU takes.

    Attributes:
        fixed_us: launching the model's kernels one after another, both copies, and waiting for the end.
        faster: by how much a row is cheaper than on the CPU at the CPU's best batch.
        spread: the standard deviation of a run's logarithm.
    """

    fixed_us: Mapping[str, float]
    faster: float
    spread: float = 0.03


#: ASSUMPTIONS, not measurements. `fixed_us` is some 8 us for each kernel that is launched, and copies to a child process.
FIXED_US = {"mlp": 150.0, "resnet50": 1200.0, "encoder": 1000.0}
GPUS = {
    "small": AssumedGpu(FIXED_US, faster=3.0),  # an integrated or old GPU, or the same one beside ten times the cores
    "large": AssumedGpu(FIXED_US, faster=12.0),  # an inference card beside these two cores
}

#: Prices and watts: ASSUMPTIONS as well, of the order of what clouds ask and data sheets say.
PRICE_PER_HOUR = {CPU: 0.10, GPU: 0.60}
IDLE_W = {CPU: 20.0, GPU: 15.0}
BUSY_W = {CPU: 95.0, GPU: 70.0}

#: The standard deviation of the logarithm of a run's time on the CPU.
CPU_SPREAD = 0.10


def measured() -> dict[str, Saved]:
    """The committed CPU profiles, by model."""
    profiles: dict[str, Saved] = json.loads(MEASURED.read_text())["service_us"]
    return profiles


def measured_where() -> dict[str, str]:
    """On what machine, when and how they were measured."""
    content = json.loads(MEASURED.read_text())
    dates = ", ".join(f"{model} {date}" for model, date in content["dates"].items())
    about: dict[str, str] = content["about"] | {"measured": dates}
    return about


def measure(models: Collection[str]) -> None:
    """Measures CPU profiles anew, as the server does: requests of one row, joined and taken apart again. Keeps the others."""
    service_us, dates = measured(), json.loads(MEASURED.read_text())["dates"]
    with tempfile.TemporaryDirectory() as directory:
        for case in (case for case in CASES if case.name in models):
            session = OnnxSession(case.publish(Path(directory) / case.name), devices.cpu())
            took_us: dict[int, list[float]] = {rows: [] for rows in SIZES}
            for _ in range(ROUNDS):
                for rows, times_us in took_us.items():
                    _await_quiet()
                    times_us.append(timed_us(session, rows, batched=True))
                    runs = min(100, int(ROUND_US / times_us[-1]))
                    times_us += [timed_us(session, rows, batched=True) for _ in range(runs)]
            profile = Profile()
            for rows, times_us in took_us.items():
                profile.measure(rows, times_us)
            service_us[case.name] = profile.saved()
            dates[case.name] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    about = results.machine() | {"command": "python -m simulation --measure"}
    content = {"schema_version": 1, "about": about, "dates": dates, "service_us": service_us}
    MEASURED.write_text(json.dumps(content, indent=1) + "\n")


def _await_quiet() -> None:
    until_s = time.monotonic() + DEFAULT_DUE_S
    while psutil.cpu_percent(0.2) > QUIET_PERCENT and time.monotonic() < until_s:
        pass


def assumed(gpu: AssumedGpu, cpu: Mapping[str, Saved]) -> dict[str, Saved]:
    """The profiles of a GPU, by model."""
    profiles = {}
    for model, saved in cpu.items():
        row_us = min(estimate["service_us"] / int(rows) for rows, estimate in saved.items()) / gpu.faster
        times_us = {rows: gpu.fixed_us[model] + rows * row_us for rows in SIZES}
        profiles[model] = {str(rows): asdict(_estimate(us, gpu.spread)) for rows, us in times_us.items()}
    return profiles


def _estimate(service_us: float, spread: float) -> Estimate:
    return Estimate(service_us, 0.67 * spread * service_us, service_us * (1 - 2 * spread), ROUNDS)
