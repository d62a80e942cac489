r"""Loads one model on the devices of a server, from Locust's page or headless.

    locust -f loadtests/locustfile.py --host 127.0.0.1:8001 --web-host 127.0.0.1 --class-picker
    locust -f loadtests/locustfile.py --host 127.0.0.1:8001 --headless CpuUser --model digits-cnn --batch 8 \
        --users 4 --spawn-rate 4 --duration 30

The server must speak the Open Inference Protocol over gRPC. Each user keeps one request in flight, or with `--arrival open`
sends at random moments. Keep load shapes out of this file: Locust applies any that it finds here; they are in shapes.py.
"""

from typing import Any

from locust import events, tag, task
from turnout_loadtests.sending import lifecycle, options
from turnout_loadtests.sending.users import InferenceUser

assert lifecycle  # importing it registers what happens around a test


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator] # Locust has no type for it
def add_options(parser: Any, **_: Any) -> None:
    """Adds the options; Locust passes its parser by this name."""
    options.add_options(parser)


class CpuUser(InferenceUser):
    """Sends its requests to the CPU."""

    device = "cpu"

    @tag("cpu")
    @task
    def infer(self) -> None:
        super().infer()


class CudaUser(InferenceUser):
    """Sends its requests to any CUDA device."""

    device = "cuda"

    @tag("cuda")
    @task
    def infer(self) -> None:
        super().infer()


class AutoUser(InferenceUser):
    """Leaves the choice of the device to the server."""

    device = "auto"

    @tag("auto")
    @task
    def infer(self) -> None:
        super().infer()


class StreamUser(InferenceUser):
    """Sends its requests over one bidirectional stream."""

    device = "auto"
    streaming = True

    @tag("stream")
    @task
    def infer(self) -> None:
        super().infer()
