"""Cells, results and metadata made up for tests."""

from dataclasses import replace
from typing import Any

from turnout_loadtests.cells import Cell
from turnout_loadtests.environment import Environment
from turnout_loadtests.results import Results, Skipped
from turnout_loadtests.verdict import verdicts
from turnout_proto import inference_pb2 as pb

CELL = Cell(
    model="resnet50",
    device="cpu",
    batch=1,
    users=4,
    arrival="closed",
    round=1,
    duration_s=8.0,
    requests=800,
    failures=0,
    failures_by_code={},
    requests_per_s=100.0,
    rows_per_s=100.0,
    service_p50_ms=40.0,
    service_p90_ms=44.0,
    service_p95_ms=45.0,
    service_p99_ms=None,
    queue_p50_us=100.0,
    compute_p50_us=30_000.0,
    rows_run_together=1.0,
    answered_by={"cpu": 800},
    client_cpu=0.1,
    idle_pressure_percent=0.5,
    flags=[],
    command="python -m locust",
)


def cell(**changes: Any) -> Cell:
    rate = changes.get("rows_per_s", CELL.rows_per_s)
    return replace(CELL, **{"requests_per_s": rate / changes.get("batch", 1), **changes})


def failed_cell(**changes: Any) -> Cell:
    nothing = {"rows_per_s": 0.0, "service_p50_ms": None, "service_p95_ms": None, "flags": ["no answers", "failures"]}
    return cell(**{"failures": 800, "failures_by_code": {"RESOURCE_EXHAUSTED": 800}, **nothing, **changes})


def results(*cells: Cell, skipped: tuple[Skipped, ...] = ()) -> Results:
    machine: dict[str, Any] = {
        "cpu": "Test CPU", "cores": 2, "cpu_limit": None, "memory_gib": 8.0, "gpus": [], "system": "Linux",
        "versions": {"turnout": "0.1.0"},
    }  # fmt: skip
    models = list(dict.fromkeys(cell.model for cell in cells))
    return Results(
        schema_version=1,
        turnout_version="0.1.0",
        command="turnout-loadtest compare resnet50",
        started="2026-01-02T03:04:05+00:00",
        server="turnout 0.1.0",
        environment=Environment(**machine),
        models=models,
        devices=["cpu", "cuda"],
        skipped=list(skipped),
        cells=list(cells),
        verdicts=verdicts(models, cells, skipped),
    )


def add_metadata() -> pb.ModelMetadataResponse:
    """A model that takes x (batch, 4) float32."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name="add",
        versions=["1"],
        inputs=[tensor(name="x", datatype="FP32", shape=[-1, 4])],
        outputs=[tensor(name="y", datatype="FP32", shape=[-1, 4])],
    )
