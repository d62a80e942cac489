"""ONNX files in ONNX's text format, and a child's work in this process."""

from pathlib import Path
from typing import Any

import onnx
from turnout_exporter.children import Channel
from turnout_exporter.jobs import ExamineJob, ModelJob

SILENT = Channel(lambda _: None)
DOUBLED = "double (float[batch, 4] x) => (float[batch, 4] y) { y = Add(x, x) }"
GATHERED = "gather (int64[N, S] ids) => (float[N, S, 2] y) <float[4, 2] t = {1,2,3,4,5,6,7,8}> { y = Gather(t, ids) }"


def save(directory: Path, text: str, opset: int = 20, domains: str = "") -> Path:
    path = directory / "source.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}{domains}]> {text}'), path)
    return path


def examine_job(path: Path, directory: Path, **changes: Any) -> ExamineJob:
    fields: dict[str, Any] = {
        "model": vars(ModelJob(str(path))), "inputs": [], "ranges": {}, "max_batch_size": None, "samples": None,
        "selected": None, "output_names": None, "reference": str(directory / "reference"),
    }  # fmt: skip
    return ExamineJob(**fields | changes)
