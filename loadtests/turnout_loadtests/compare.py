"""Compares devices: finds which of them each model can use, measures one cell after another, and collects the results."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from turnout_proto.methods import Stub

from turnout_loadtests import environment
from turnout_loadtests.cells import Cell, Load
from turnout_loadtests.client import connect, model_metadata, server_name, why_unavailable
from turnout_loadtests.payloads import parse_shape, read_inputs, request_pool
from turnout_loadtests.results import SCHEMA_VERSION, Results, Skipped
from turnout_loadtests.run import run_cell
from turnout_loadtests.verdict import verdicts


@dataclass(frozen=True)
class Comparison:
    """What to measure: every model on every device at every batch, with the users and durations of `load`."""

    models: Sequence[str]
    devices: Sequence[str]
    batches: Sequence[int]
    load: Load  # model, device and batch are replaced in each cell


@dataclass(frozen=True)
class Progress:
    """Callbacks for progress, called from the thread that runs the comparison."""

    skipped: Callable[[Skipped], None] = lambda skipped: None
    begun: Callable[[Load, int, int], None] = lambda load, number, total: None
    tick: Callable[[float], None] = lambda share: None


def compare(plan: Comparison, folder: Path, command: Sequence[str], progress: Progress) -> Results:
    """Measures each model on the devices that it can use; the raw samples go to `folder/samples`.

    Raises:
        LoadTestError: the server can't be reached, it doesn't have a model, or Locust couldn't run.
    """
    stub, started = connect(plan.load.host), datetime.now(UTC)
    server, machine = server_name(stub), environment.describe()
    usable, skipped = _usable_devices(stub, plan, progress)
    cells = _measure(in_turn(plan, usable), folder / "samples", progress)
    return Results(
        schema_version=SCHEMA_VERSION,
        turnout_version=machine.versions.get("turnout", "unknown"),
        command=shlex.join(command),
        started=started.isoformat(timespec="seconds"),
        server=server,
        environment=machine,
        models=list(plan.models),
        devices=list(plan.devices),
        skipped=skipped,
        cells=cells,
        verdicts=verdicts(plan.models, cells, skipped),
    )


def in_turn(plan: Comparison, usable: Mapping[str, Sequence[str]]) -> list[Load]:
    """The loads of the cells in order. A model's devices alternate, so that a drift of the machine affects all of them."""
    return [
        replace(plan.load, model=model, device=device, batch=batch)
        for model in plan.models
        for batch in plan.batches
        for device in usable[model]
    ]


def _measure(loads: Sequence[Load], samples: Path, progress: Progress) -> list[Cell]:
    cells = []
    for number, load in enumerate(loads, 1):
        progress.begun(load, number, len(loads))
        cells.append(run_cell(load, samples / f"{_file_name(load)}.npz", progress.tick))
    return cells


def _usable_devices(stub: Stub, plan: Comparison, progress: Progress) -> tuple[dict[str, list[str]], list[Skipped]]:
    usable: dict[str, list[str]] = {model: [] for model in plan.models}
    skipped = []
    for model, device in product(plan.models, plan.devices):
        if reason := _why_unavailable(stub, replace(plan.load, model=model, device=device, batch=1)):
            skipped.append(Skipped(model, device, reason))
            progress.skipped(skipped[-1])
        else:
            usable[model].append(device)
    return usable, skipped


def _why_unavailable(stub: Stub, load: Load) -> str | None:
    pool = request_pool(
        model_metadata(stub, load.model),
        device=load.device,
        batch=load.batch,
        shapes=dict(parse_shape(text) for text in load.shape.split()),
        inputs=read_inputs(Path(load.inputs)) if load.inputs else None,
        count=1,
    )
    return why_unavailable(stub, pool[0])


def _file_name(load: Load) -> str:
    return f"{load.model}-{load.device}-b{load.batch}".replace(":", "").replace("/", "-")
