"""The child process that has a file judged by the user's own metric, such as its accuracy on a test set."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from turnout_exporter import children
from turnout_exporter.children import Channel, Json
from turnout_exporter.errors import SourceError
from turnout_exporter.importing import load_function
from turnout_exporter.jobs import MetricJob
from turnout_exporter.runtime.sessions import open_session, run_session
from turnout_exporter.spec.reference import Arrays
from turnout_exporter.spec.sources import Function


def run(job_fields: Json, _: Channel) -> Json:
    """Does a `MetricJob`; returns the figures by name, as `metric`.

    The function gets one argument: a function from inputs by name to outputs by name. It returns a number, or numbers by name.
    """
    job = MetricJob(**job_fields)
    function = load_function(Function.parse(job.metric, "--metric"))
    session = open_session(Path(job.path))

    def predict(inputs: Arrays) -> Arrays:
        return run_session(session, {name: np.asarray(array) for name, array in inputs.items()})

    try:
        answer = function(predict)
        figures = (
            {str(name): float(value) for name, value in answer.items()}
            if isinstance(answer, Mapping)
            else {"metric": float(answer)}
        )
    except Exception as error:  # the user's code may raise anything
        raise SourceError(f"{job.metric} raised {type(error).__name__}: {error}") from error
    if not figures or not all(map(np.isfinite, figures.values())):
        raise SourceError(f"{job.metric} returned {figures or 'nothing'} instead of finite numbers")
    return {"metric": figures}


if __name__ == "__main__":
    children.answer(run)
