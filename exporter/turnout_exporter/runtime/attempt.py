"""The child process that opens a file on one execution provider. A provider that crashes takes only this process with it."""

from pathlib import Path

from turnout_exporter import children
from turnout_exporter.children import Channel, Json
from turnout_exporter.jobs import TryJob
from turnout_exporter.runtime.sessions import open_session


def run(job_fields: Json, _: Channel) -> Json:
    """Does a `TryJob`; returns if the provider runs the file."""
    job = TryJob(**job_fields)
    open_session(Path(job.path), job.provider)
    return {}


if __name__ == "__main__":
    children.answer(run)
