"""What a comparison has measured so far, and the results that follow from it at any moment."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout_loadtests import environment
from turnout_loadtests.formatting import three_digits
from turnout_loadtests.judging.agreement import Agreement
from turnout_loadtests.judging.cells import INVALID, Cell
from turnout_loadtests.judging.ladder import WIDEST_MS
from turnout_loadtests.judging.search import Capacity
from turnout_loadtests.judging.summaries import Key, Summary, key_of, summarised
from turnout_loadtests.judging.validity import Floor
from turnout_loadtests.plan import Request, experiments, rounds_of
from turnout_loadtests.probing import Probed
from turnout_loadtests.reporting.conclusions import concluded
from turnout_loadtests.reporting.results import NOT_REACHED, SCHEMA_VERSION, Gap, Machine, Results
from turnout_loadtests.sending.samples import OK, Samples


def model_hashes(repository: Path, models: Sequence[str]) -> dict[str, str]:
    """The first 12 digits of the SHA-256 of each model's newest file; without those that can't be read."""
    found = {}
    for model in models:
        versions = [path for path in (repository / model).glob("*/model.onnx") if path.parent.name.isdigit()]
        if versions:
            with max(versions, key=lambda path: int(path.parent.name)).open("rb") as file:
                found[model] = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    return found


@dataclass
class Ledger:
    """Cells, gaps and capacities of one comparison, with what is known of server and machine.

    Attributes:
        models: for each model, its devices that can be measured.
        said: is given a line for the user.
        written: is given the results after every entry.
    """

    request: Request
    command: str
    processes: int
    local: bool
    pinned: bool
    said: Callable[[str], None]
    written: Callable[[Results], None]
    prices: dict[str, float] = field(default_factory=dict)
    server_name: str = ""
    floor: Floor | None = None
    idle_w: dict[str, float] = field(default_factory=dict)
    models: dict[str, dict[str, Probed]] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    capacities: list[Capacity] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began_s, self._started = time.monotonic(), datetime.now(UTC)
        self._machine = environment.describe()
        self._hashes = model_hashes(Path(self.request.repository), self.request.models) if self.request.repository else {}
        self._times_ms: dict[Key, dict[int, NDArray[Any]]] = {}

    def enter(self, cell: Cell, samples: Samples) -> None:
        """Adds a cell; those of a round take part in its experiment's summary."""
        self.cells.append(cell)
        if cell.round:
            begin_s, end_s = samples.window_s
            counted = (samples.due_s >= begin_s) & (samples.due_s < end_s) & (samples.code == OK)
            times_ms = ((samples.ended_s - samples.due_s)[counted] * 1e3).astype(np.float32)
            self._times_ms.setdefault(key_of(cell), {})[cell.round] = times_ms
        if cell.state == INVALID:
            where = f"{cell.model} on {cell.device}, {cell.scenario}, batch {cell.batch}"
            self.said(f"{INVALID}: {where}: {cell.reasons[0]}")
        self.written(self.results(complete=False))

    def lacks(self, gap: Gap) -> None:
        """Adds something that can't be measured."""
        self.gaps.append(gap)
        self.said(f"{gap.what}: {gap.kind}: {gap.reason}")

    def carries(self, capacity: Capacity) -> None:
        """Adds the result of a search."""
        self.capacities.append(capacity)
        self.written(self.results(complete=False))

    def unreached(self, why: str) -> list[Gap]:
        """A gap for each experiment that lacks rounds on a device, and for each search that has not come to its end."""
        request = self.request
        gaps = [Gap(model, "", 0, NOT_REACHED, why) for model in request.models if model not in self.models]
        done = Counter(
            (cell.model, cell.device, cell.batch, cell.scenario, cell.rate_per_s) for cell in self.cells if cell.round
        )
        searched = {(each.model, each.device) for each in self.capacities}
        for model, devices in self.models.items():
            planned = rounds_of(request.profile, len(devices))
            for device, probed in devices.items():
                for each in experiments(request):
                    count = done[model, device, each.batch, each.scenario, each.rate_per_s]
                    if count < planned and each.batch in probed.latency_s:
                        load = f" at {three_digits(each.rate_per_s)}/s" if each.rate_per_s else ""
                        what = f"{each.scenario}{load}: {count} of {planned} rounds; {why}"
                        gaps.append(Gap(model, device, each.batch, NOT_REACHED, what))
                if request.profile.searches and (model, device) not in searched:
                    what = f"the search for what it carries within {request.target_ms or WIDEST_MS:g} ms; {why}"
                    gaps.append(Gap(model, device, min(probed.latency_s), NOT_REACHED, what))
        return gaps

    def results(self, *, complete: bool) -> Results:
        """The results by now."""
        request = self.request
        machine = Machine(
            number=1,
            command=self.command,
            started=self._started.isoformat(timespec="seconds"),
            took_s=time.monotonic() - self._began_s,
            server=self.server_name,
            local=self.local,
            pinned=self.pinned,
            processes=self.processes,
            environment=self._machine,
            floor=self.floor,
            idle_w=self.idle_w,
            model_hashes=self._hashes,
        )
        return concluded(
            Results(
                schema_version=SCHEMA_VERSION,
                turnout_version=self._machine.versions.get("turnout", "unknown"),
                complete=complete,
                profile=request.profile.name,
                says_not=request.profile.says_not,
                target_ms=request.target_ms,
                loads_per_s=list(request.loads_per_s),
                models=list(request.models),
                devices=list(request.devices),
                machines=[machine],
                facts={model: [probed.facts for probed in devices.values()] for model, devices in self.models.items()},
                gaps=list(self.gaps),
                cells=list(self.cells),
                summaries=self._summaries(),
                capacities=list(self.capacities),
                agreements=list(self.agreements),
                prices=self.prices,
                comparisons=[],
                answers=[],
                verdicts=[],
            )
        )

    def _summaries(self) -> list[Summary]:
        groups: dict[Key, list[Cell]] = {}
        for cell in self.cells:
            if cell.round:
                groups.setdefault(key_of(cell), []).append(cell)
        return [summarised(cells, self._times_ms[key]) for key, cells in groups.items()]
