"""The child process that examines a PyTorch model: its inputs, its outputs, whether it is stable, and the sizes that it takes.

It writes the model's outputs at every point into the folder of the reference.
"""

import sys
from dataclasses import asdict
from pathlib import Path

import torch

from turnout_exporter import children
from turnout_exporter.children import Channel, Json
from turnout_exporter.errors import SpecError
from turnout_exporter.examination import find_base, find_limits, mixed_outputs, points_of, size_notes, take_samples
from turnout_exporter.jobs import Examined, ExamineJob, ModelJob
from turnout_exporter.pytorch import stability
from turnout_exporter.pytorch.build import Built, build, fingerprint, precision, weight_bytes
from turnout_exporter.pytorch.first_values import FirstValues
from turnout_exporter.pytorch.presets import caps_of, inputs_of, labels_of, preprocessing_of
from turnout_exporter.pytorch.program import check_flat, ranges_within, size_limits
from turnout_exporter.pytorch.subject import forward_of, program_inputs, subject_of
from turnout_exporter.spec.inputspec import InputSpec, dims_of, parse_inputs
from turnout_exporter.spec.points import BATCH, Limits, Point, batch_limits, check_ranges


def run(job_fields: Json, channel: Channel) -> Json:
    """Does an `ExamineJob`; returns `Examined` as a dict."""
    job = ExamineJob(**job_fields)
    model_job = ModelJob(**job.model)
    built = build(model_job)
    checksum = fingerprint(built.model)  # of what every child makes, before forward can change it
    first_values = FirstValues(built.model)
    inputs = _inputs(job, model_job, built)
    forward = forward_of(built, inputs, job.selected)
    subject = subject_of(forward, first_values, inputs, job.samples, job.output_names)
    own = size_limits(built.program, inputs) if built.program else {}
    given, max_batch_size = _given_limits(job, inputs, own)
    caps = ({} if job.inputs else caps_of(built.model)) | {dim: limit.high for dim, limit in own.items()}
    if BATCH in own and own[BATCH].low > 1:
        channel.note(f"the program takes {own[BATCH].low} rows or more, so requests of one row fail, and none are batched")

    channel.step("Running PyTorch twice on the same inputs")
    base = find_base(subject, given, caps)
    arrays = subject.inputs_at(Point(base))
    for note in built.notes + stability.check(first_values, lambda: forward.run(arrays)):
        channel.note(note)

    channel.step("Looking for the sizes that it takes")
    base, limits = find_limits(subject, base, given, caps)
    for note in size_notes(subject, base, limits, given):
        channel.note(note)
    points = points_of(subject, base, limits)
    channel.step(f"Running PyTorch at {len(points)} points")
    samples = take_samples(subject, points, Path(job.reference), channel.detail)
    return asdict(
        Examined(
            inputs=[str(spec) for spec in inputs],
            base=base,
            limits={dim: [limit.low, limit.high, limit.step] for dim, limit in limits.items()},
            max_batch_size=max_batch_size,
            selected=list(forward.run(arrays)),
            output_names=list(samples[0].outputs),
            precision=precision(built.model),
            weight_bytes=weight_bytes(built.model),
            fingerprint=checksum,
            source_file=str(built.file) if built.file else None,
            versions=_versions(),
            labels=labels_of(built.model),
            preprocessing=preprocessing_of(built.model),
            mixed=mixed_outputs(subject, samples[0]),
        )
    )


def _inputs(job: ExamineJob, model_job: ModelJob, built: Built) -> list[InputSpec]:
    """The inputs: those that are given, else those that the program, the configuration or the task says."""
    if built.program is None:
        return parse_inputs(job.inputs or inputs_of(built.model, model_job.task))
    check_flat(built.program)
    own = parse_inputs(program_inputs(built.program))
    given = {spec.name: spec for spec in parse_inputs(job.inputs)}
    unknown = given.keys() - {spec.name for spec in own}
    if unknown:
        raise SpecError(f"the program has no input {', '.join(unknown)}; it has {', '.join(spec.name for spec in own)}")
    return [given.get(spec.name, spec) for spec in own]


def _given_limits(job: ExamineJob, inputs: list[InputSpec], own: dict[str, Limits]) -> tuple[dict[str, Limits], int]:
    dims = dims_of(inputs)
    check_ranges(dims, job.ranges)
    stated = {dim: Limits(*limit) for dim, limit in job.ranges.items()}
    return batch_limits(dims, *ranges_within(own, stated, job.max_batch_size))


def _versions() -> dict[str, str]:
    """The versions of torch, and of the libraries of models that were imported."""
    found = {"torch": str(torch.__version__)}
    for name in ("transformers", "timm", "torchvision"):
        if version := getattr(sys.modules.get(name), "__version__", ""):
            found[name] = version
    return found


if __name__ == "__main__":
    children.answer(run)
