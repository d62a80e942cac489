"""`python -m benchmarks.engines`: compares the CPU provider with OpenVINO on the same cores: alone, and in mixes of models."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from turnout_server.devices.engines import bring_up, start
from turnout_server.scheduling.profiles import SETTLED_RUNS, Estimate

from benchmarks import results
from benchmarks.contestants import ROOT
from benchmarks.engines import mixes, report, table, variants
from simulation.engines import PROFILES

IN_PROCESS = "openvino in-process"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("part", nargs="?", choices=("table", "mixes"), help="only this one; the other is kept as it was")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each cell and mix (5)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a mix on one device (10)")
    parser.add_argument("--note", action="append", default=[], help="a remark for the head of the report")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="the report's folder (docs/results)")
    chosen = parser.parse_args()
    about = results.about("benchmarks.engines") | {f"note {at}": text for at, text in enumerate(chosen.note, 1)}
    cells, measured = report.earlier(chosen.output) if chosen.part else ([], [])
    with tempfile.TemporaryDirectory() as directory:
        made = variants.publish(Path(directory))
        if chosen.part != "mixes":
            cells = _table(made, chosen.rounds)
            write_profiles(about, cells)
        if chosen.part != "table":
            served = [cell for cell in cells if cell.engine != IN_PROCESS]
            measured = mixes.measure(Path(directory), made, served, chosen.rounds, chosen.seconds)
    print(report.write(chosen.output, about, cells, measured))


def _table(made: Sequence[variants.Variant], rounds: int) -> list[table.Cell]:
    engines = bring_up([], {"cuda"}, lambda: None)
    try:
        if "openvino" not in engines.by_name:
            sys.exit(f"there is no second engine: {engines.missing['openvino']}")
        inside = start(replace(engines.by_name["openvino"].device, isolated=False), lambda: None)
        return table.measure(made, {**engines.by_name, IN_PROCESS: inside}, rounds)
    finally:
        engines.stop()


def write_profiles(about: dict[str, str], cells: Sequence[table.Cell]) -> None:
    """Writes what the simulation uses: by engine, model and rows, the fields of an estimate."""
    service_us: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for cell in cells:
        estimate = Estimate(cell.run_ms * 1e3, cell.spread_ms * 1e3, cell.fastest_ms * 1e3, SETTLED_RUNS)
        model = f"{cell.model} {cell.precision}"
        service_us.setdefault(cell.engine, {}).setdefault(model, {})[str(cell.rows)] = asdict(estimate)
    service_us.pop(IN_PROCESS, None)
    PROFILES.write_text(json.dumps({"about": about, "service_us": service_us}, indent=1) + "\n")


if __name__ == "__main__":
    main()
