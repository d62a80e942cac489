r"""Loads one model on one device of a server, from Locust's web page or headless.

    locust -f loadtests/locustfile.py --host 127.0.0.1:8001
    locust -f loadtests/locustfile.py --host 127.0.0.1:8001 --model digits-cnn --device cpu --batch 8 \
        --headless --users 4 --spawn-rate 4 --duration 30

The server must speak the Open Inference Protocol over gRPC. Each user keeps one request in flight. Every option is also a field
of the web page. Keep load shapes out of this file: Locust applies any that it finds here.
"""

from typing import Any

from locust import constant, events, task
from turnout_loadtests.users import InferenceUser


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator] # Locust has no type for it
def add_options(parser: Any, **_: Any) -> None:
    """Adds the options. Locust passes its parser by this name, and shows only options that are added to it directly."""
    add = parser.add_argument
    add("--model", default="", env_var="LOCUST_MODEL", help="its name; by default the first ready one that the server lists")
    add("--device", default="auto", env_var="LOCUST_DEVICE", help="auto, cpu, cuda, cuda:1, ... for every request")
    add("--batch", type=int, default=1, env_var="LOCUST_BATCH", help="rows in each request")
    add("--shape", default="", env_var="LOCUST_SHAPE", help="sizes of free dimensions: 'tokens:128 image:3,224,224'")
    add("--inputs", default="", env_var="LOCUST_INPUTS", help="an .npz with rows by input name; by default random rows")
    add("--request-timeout", type=float, default=30.0, env_var="LOCUST_REQUEST_TIMEOUT", help="deadline in seconds")
    add("--service-config", default="", env_var="LOCUST_SERVICE_CONFIG", help="a file with gRPC's service config, in JSON")
    add("--warm-up", type=float, default=1.0, env_var="LOCUST_WARM_UP", help="seconds before the measurement")
    add("--duration", type=float, default=0.0, env_var="LOCUST_DURATION", help="seconds to measure; 0: until stopped")
    add("--samples", default="", env_var="LOCUST_SAMPLES", help="an .npz to write every sample to")


class Inference(InferenceUser):
    """A client that sends its next request once the last one is answered."""

    wait_time = constant(0)

    @task
    def infer(self) -> None:
        super().infer()
