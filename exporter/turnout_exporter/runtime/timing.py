"""The child process that measures how fast a file is beside another one, on the CPU of this machine."""

import statistics
import time
from pathlib import Path

import onnxruntime as ort

from turnout_exporter import children
from turnout_exporter.children import Channel, Json
from turnout_exporter.jobs import TimingJob
from turnout_exporter.runtime.sessions import open_session, run_session
from turnout_exporter.spec import reference
from turnout_exporter.spec.reference import Sample

_LONGEST_RUN_S = 0.5
_TOTAL_S = 3.0
_LEAST_RUNS = 5


def run(job_fields: Json, _: Channel) -> Json:
    """Does a `TimingJob`; returns how many times as fast the file is as the baseline, as `speedup`."""
    job = TimingJob(**job_fields)
    sessions = [open_session(Path(path)) for path in (job.baseline, job.path)]
    sample = _typical(sessions[0], reference.read(Path(job.reference)))
    return {"speedup": _ratio(sessions, sample), "point": sample.point.label}


def _typical(session: ort.InferenceSession, samples: list[Sample]) -> Sample:
    """The largest sample that doesn't take long: small ones measure the call, not the model."""
    chosen = min(samples, key=lambda sample: sample.nbytes)
    for sample in sorted(samples, key=lambda sample: sample.nbytes):
        if _cpu_s(session, sample) > _LONGEST_RUN_S:
            break
        chosen = sample
    return chosen


def _ratio(sessions: list[ort.InferenceSession], sample: Sample) -> float:
    """The ratio of the medians of the CPU time, which other processes disturb less than the time on the clock.

    The runs take turns, so that a busy machine slows both.
    """
    times: list[list[float]] = [[], []]
    for index in (0, 1):
        _cpu_s(sessions[index], sample)  # the first run allocates memory
    began_s = time.monotonic()
    while len(times[1]) < _LEAST_RUNS or time.monotonic() - began_s < _TOTAL_S:
        for index in (0, 1):
            times[index].append(_cpu_s(sessions[index], sample))
    baseline_s, variant_s = (statistics.median(each) for each in times)
    return baseline_s / variant_s


def _cpu_s(session: ort.InferenceSession, sample: Sample) -> float:
    began_s = time.process_time()
    run_session(session, sample.inputs)
    return time.process_time() - began_s


if __name__ == "__main__":
    children.answer(run)
