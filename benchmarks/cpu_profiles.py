"""`python -m benchmarks.cpu_profiles`: measures the CPU profiles that `simulation` uses, into simulation/cpu-profiles.json."""

import argparse
import json
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

import psutil
from turnout_server.devices import device as devices
from turnout_server.devices.sessions import OnnxSession
from turnout_server.models.warmup import timed_us
from turnout_server.scheduling.profiles import Profile

from benchmarks import results
from benchmarks.cases import CASES
from simulation.service import CPU_PROFILES, MODELS, SIZES, cpu_profiles

#: Rounds over all sizes, so that a disturbance of the machine doesn't affect one size alone; short runs are repeated in each
#: round for this long.
ROUNDS, ROUND_US = 5, 2e4
#: A run waits until other processes use less than this share of the machine, but no longer than this.
QUIET_PERCENT, QUIET_TIMEOUT_S = 10.0, 10.0


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_profiles", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"measure only these: {', '.join(MODELS)}")
    chosen = parser.parse_args()
    if unknown := set(chosen.models) - set(MODELS):
        parser.error(f"unknown models: {', '.join(sorted(unknown))}")
    measure(chosen.models or MODELS, CPU_PROFILES)


def measure(models: Collection[str], path: Path) -> None:
    """Measures these models as the server does, by one-row requests that are batched; keeps the profiles of the others."""
    service_us, dates = cpu_profiles(), json.loads(CPU_PROFILES.read_text())["dates"]
    about = results.about("benchmarks.cpu_profiles")
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
    del about["date"]  # each model has its own
    content = {"schema_version": 1, "about": about, "dates": dates, "service_us": service_us}
    path.write_text(json.dumps(content, indent=1) + "\n")


def _await_quiet() -> None:
    until_s = time.monotonic() + QUIET_TIMEOUT_S
    while psutil.cpu_percent(0.2) > QUIET_PERCENT and time.monotonic() < until_s:
        pass


if __name__ == "__main__":
    main()
