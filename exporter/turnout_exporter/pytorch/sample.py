"""The child process that runs a PyTorch model at further points, and adds the samples to the folder of the reference."""

from pathlib import Path

from turnout_exporter import children
from turnout_exporter.children import Channel, Json
from turnout_exporter.examination import take_samples
from turnout_exporter.jobs import ModelJob, SampleJob
from turnout_exporter.pytorch.build import build
from turnout_exporter.pytorch.first_values import FirstValues
from turnout_exporter.pytorch.subject import check_same, forward_of, subject_of
from turnout_exporter.spec.inputspec import parse_inputs
from turnout_exporter.spec.points import Point


def run(job_fields: Json, channel: Channel) -> Json:
    """Does a `SampleJob`; the result is in the folder."""
    job = SampleJob(**job_fields)
    built = build(ModelJob(**job.model))
    check_same(built, job.fingerprint)
    inputs = parse_inputs(job.inputs)
    forward = forward_of(built, inputs, job.selected)
    subject = subject_of(forward, FirstValues(built.model), inputs, job.samples, job.output_names)
    take_samples(subject, [Point.parse(label) for label in job.points], Path(job.reference), channel.detail)
    return {}


if __name__ == "__main__":
    children.answer(run)
