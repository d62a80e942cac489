r"""Load shapes: how many users there are as time passes. Locust runs one of them in place of a constant number of users.

    locust -f loadtests/locustfile.py,loadtests/shapes.py --host 127.0.0.1:8001 --headless CpuUser \
        --load-shape saturation --users 64

`--users` is the greatest number of users, `--run-time` the time of a whole shape (5 minutes by default). On the page, start
Locust with `--class-picker` and pick the shape there.
"""

import math
from typing import Any

from locust import LoadTestShape, events
from turnout_loadtests.sending.saturation import Saturation

DEFAULT_USERS, DEFAULT_S = 32, 300.0


class Shape(LoadTestShape):
    """A shape that reads the greatest number of users and the duration from Locust's options."""

    abstract = True
    use_common_options = True

    @property
    def peak(self) -> int:
        """The greatest number of users."""
        return int(self._option("num_users") or DEFAULT_USERS)

    @property
    def duration_s(self) -> float:
        """How long the shape lasts."""
        return float(self._option("run_time") or DEFAULT_S)

    def tick(self) -> tuple[int, float] | None:
        """The number of users now, and how many start or stop each second; None once the shape is over."""
        share = self.get_run_time() / self.duration_s  # type: ignore[no-untyped-call]
        if share >= 1:
            return None
        return max(1, round(self.level(share) * self.peak)), float(self.peak)

    def level(self, share: float) -> float:
        """The share of the users that are there after this share of the time; both from 0 to 1."""
        raise NotImplementedError

    def _option(self, name: str) -> Any:
        environment = self.runner.environment if self.runner else None
        return getattr(environment.parsed_options, name, None) if environment else None


class StepShape(Shape):
    """Five steps of equal length and height."""

    def level(self, share: float) -> float:
        return (math.floor(share * 5) + 1) / 5


class SpikeShape(Shape):
    """A tenth of the users, and all of them for a fifth of the time in the middle."""

    def level(self, share: float) -> float:
        return 1.0 if 0.4 <= share < 0.6 else 0.1


class DiurnalShape(Shape):
    """A day: from few users at night to all of them at noon, and back."""

    def level(self, share: float) -> float:
        return 0.1 + 0.45 * (1 - math.cos(2 * math.pi * share))


class SaturationShape(Shape):
    """Twice as many users each time, until throughput no longer grows or `--slo-p99-ms` is missed; then it ends."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._saturation = Saturation()

    def reset_time(self) -> None:
        super().reset_time()  # type: ignore[no-untyped-call]
        self._saturation = Saturation()

    def tick(self) -> tuple[int, float] | None:
        now_s: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if self.runner is None or now_s >= self.duration_s:
            return None
        total = self.runner.stats.total
        target_ms = float(self._option("slo_p99_ms") or math.inf)
        p99_ms = total.get_current_response_time_percentile(0.99)
        users = self._saturation.users(now_s, total.num_requests - total.num_failures, p99_ms, target_ms)
        return None if users is None or users > self.peak else (users, float(users))

    def level(self, share: float) -> float:
        return 1.0


SHAPES = {"step": StepShape, "spike": SpikeShape, "saturation": SaturationShape, "diurnal": DiurnalShape}


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator] # Locust has no type for it
def add_option(parser: Any, **_: Any) -> None:
    """Adds the option that picks a shape; Locust by itself takes the first of a file."""
    parser.add_argument(
        "--load-shape", choices=list(SHAPES), default="step", env_var="LOCUST_LOAD_SHAPE", include_in_web_ui=False,
        help="how the number of users changes",
    )  # fmt: skip


@events.init.add_listener  # type: ignore[untyped-decorator]
def pick(environment: Any, runner: Any, **_: Any) -> None:
    """Gives Locust the shape that the option names, unless the page's class picker does."""
    if environment.shape_class is not None and not environment.parsed_options.class_picker:
        environment.shape_class = SHAPES[environment.parsed_options.load_shape]()  # type: ignore[no-untyped-call]
        environment.shape_class.runner = runner
