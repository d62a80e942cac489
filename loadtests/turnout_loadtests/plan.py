"""What a comparison measures, in which order, and about how long that takes. Plain values and pure functions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from turnout_loadtests.judging.search import trial_length_s
from turnout_loadtests.sending.load import OFFLINE, RANDOM, SERVER, SINGLE_STREAM

#: Of rows, not of requests: an accelerator is filled by rows.
MAX_ROWS_IN_FLIGHT = 512
MAX_IN_FLIGHT = 256
#: One more step of doubling the requests in flight has to bring this much throughput.
WORTHWHILE_GAIN = 1.05
#: A window has this many turns of each request in flight, and answers for a p90.
TURNS, WANTED_ANSWERS = 8, 60
#: Starting a load, waiting for its last answers and saving, in seconds.
OVERHEAD_S = 0.4
#: Before a step that looks for how many requests fill a device is measured, in seconds.
STEP_WARM_UP_S = 0.3
#: Answers within which the latency at a rate is told, in the rounds together.
LOAD_ANSWERS = 500
#: Of the planned rounds, how many are repeated at most because they were disturbed.
REPEATED = 0.5
#: What an estimate assumes: requests that fill a device, steps that find it, and trials of a search that don't end early.
USUALLY_FILLING, FILL_STEPS, SEARCH_TRIALS = 4, 4, 6


@dataclass(frozen=True)
class Profile:
    """How thorough a comparison is.

    Attributes:
        rounds: repetitions of each experiment on each device.
        rounds_alone: likewise where a device has no other to be compared with.
        window_s, longest_s: seconds measured in each; longer, up to `longest_s`, for models whose answers take long.
        probe_s: seconds of each step that looks for how many requests fill a device.
        searches: whether the capacity under the latency target is searched.
        trial_s, longest_trial_s: least and most seconds of a trial of that search.
        idle_s: seconds for which the idle machine's power is measured; 0 for no energy.
        batches: rows in a request, unless the user states them.
        says_not: what a report of this profile can't say.
    """

    name: str
    rounds: int
    rounds_alone: int
    window_s: float
    longest_s: float
    warm_up_s: float
    probe_s: float
    searches: bool
    trial_s: float
    longest_trial_s: float
    idle_s: float
    batches: tuple[int, ...]
    says_not: str = ""


PROFILES = {
    "quick": Profile(
        "quick", rounds=4, rounds_alone=2, window_s=4.0, longest_s=20.0, warm_up_s=0.5, probe_s=1.0, searches=False,
        trial_s=5.0, longest_trial_s=20.0, idle_s=0.0, batches=(1, 8),
        says_not="This was the quick profile: p50 and p90, without a search. It doesn't say what load a device carries within "
        "a latency target, nor what it draws. Use --profile standard for that.",
    ),
    "standard": Profile(
        "standard", rounds=6, rounds_alone=3, window_s=6.0, longest_s=40.0, warm_up_s=1.0, probe_s=1.5, searches=True,
        trial_s=5.0, longest_trial_s=60.0, idle_s=10.0, batches=(1, 8),
    ),
    "thorough": Profile(
        "thorough", rounds=12, rounds_alone=6, window_s=12.0, longest_s=120.0, warm_up_s=2.0, probe_s=3.0, searches=True,
        trial_s=10.0, longest_trial_s=240.0, idle_s=30.0, batches=(1, 8, 32),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What the user wants to know.

    Attributes:
        batches: empty for the profile's.
        targets_ms: latency targets for p99; the first is the one that verdicts are about.
        loads_per_s: rates of requests for which devices are compared.
        in_flight: requests in flight of the Offline scenario; 0 to find out how many fill a device.
    """

    models: tuple[str, ...]
    devices: tuple[str, ...]
    profile: Profile
    batches: tuple[int, ...] = ()
    target_ms: float | None = None
    loads_per_s: tuple[float, ...] = ()
    in_flight: int = 0
    shape: str = ""
    payload: str = RANDOM
    repository: str = ""
    timeout_s: float = 30.0

    @property
    def rows(self) -> tuple[int, ...]:
        """The batches to measure, each once, smallest first."""
        return tuple(sorted(set(self.batches or self.profile.batches)))


@dataclass(frozen=True)
class Experiment:
    """What is measured on each device in each round: requests of a batch, one at a time, many, or at a rate.

    `rate_per_s` is 0 for a closed load, of one request at a time if `single`.
    """

    batch: int
    single: bool = False
    rate_per_s: float = 0.0

    @property
    def scenario(self) -> str:
        """The name that MLPerf Inference gives to it."""
        return SERVER if self.rate_per_s else SINGLE_STREAM if self.single else OFFLINE


def experiments(request: Request) -> list[Experiment]:
    """The experiments on one model: SingleStream, Offline with each batch, Server at each load."""
    smallest = request.rows[0]
    return [
        Experiment(smallest, single=True),
        *(Experiment(batch) for batch in request.rows),
        *(Experiment(smallest, rate_per_s=rate) for rate in request.loads_per_s),
    ]


def in_turn(devices: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Rounds and devices as A B, B A, A B, ...: what drifts or comes and goes affects all devices alike.

    With several devices, every second round is in the opposite order.
    """
    for number in range(1, rounds + 1):
        for device in devices if number % 2 else reversed(devices):
            yield number, device


def rounds_of(profile: Profile, devices: int) -> int:
    """How often an experiment is repeated; less often if there is nothing to compare a device with."""
    return profile.rounds if devices > 1 else profile.rounds_alone


def stated(profile: Profile, rounds: int | None, window_s: float | None) -> Profile:
    """The profile with what the user stated instead: these rounds however many devices there are, and no shorter windows."""
    if rounds is not None:
        profile = replace(profile, rounds=rounds, rounds_alone=rounds)
    if window_s is not None:
        profile = replace(profile, window_s=window_s, longest_s=max(window_s, profile.longest_s))
    return profile


def window_s(profile: Profile, in_flight: int, latency_s: float) -> float:
    """How long to measure so that there are enough answers, within the profile's limit."""
    turns = max(TURNS, WANTED_ANSWERS / in_flight)
    return min(profile.longest_s, max(profile.window_s, turns * latency_s))


def next_in_flight(rates: Sequence[tuple[int, float]], batch: int) -> int | None:
    """How many requests to try in flight next; None once more of them don't bring more, or are too many.

    Args:
        rates: requests in flight and requests per second of the steps so far, in order.
    """
    if not rates:
        return 2
    in_flight, rate = rates[-1]
    before = max((earlier for _, earlier in rates[:-1]), default=0.0)
    if in_flight * 2 * batch > max(MAX_ROWS_IN_FLIGHT, 4 * batch) or in_flight * 2 > MAX_IN_FLIGHT:
        return None
    return in_flight * 2 if rate > WORTHWHILE_GAIN * before else None


def filling(rates: Sequence[tuple[int, float]]) -> int:
    """The fewest requests in flight that come close to the greatest rate."""
    best = max(rate for _, rate in rates)
    return min(in_flight for in_flight, rate in rates if rate * WORTHWHILE_GAIN >= best)


def open_limit(rate_per_s: float, target_ms: float | None) -> int:
    """The most requests in flight of a load at a rate: those of two seconds, or of twice the target if that is longer.

    At low rates it is enough for bursts. A device that keeps the target has no more in flight than arrive within it.
    """
    return max(64, int(max(2.0, 2 * (target_ms or 0.0) / 1e3) * rate_per_s))


def duration_s(request: Request, experiment: Experiment, in_flight: int, latency_s: float) -> float:
    """How long one round of an experiment measures.

    Args:
        latency_s: of one request of its batch, alone on the device.
    """
    profile = request.profile
    if experiment.rate_per_s:
        return min(profile.longest_s, max(profile.window_s, LOAD_ANSWERS / experiment.rate_per_s / profile.rounds))
    in_flight = 1 if experiment.single else in_flight
    return window_s(profile, in_flight, latency_s * in_flight)


def step_s(profile: Profile, latency_s: float) -> float:
    """How long a step measures that looks for how many requests fill a device."""
    return min(profile.longest_s, max(profile.probe_s, 6 * latency_s))


def estimate_s(request: Request, models: Sequence[Sequence[Mapping[int, float]]]) -> tuple[float, float]:
    """About how long a comparison takes: if no round is disturbed, and if as many are repeated as may be.

    Args:
        models: for each model, for each device that can run it: how long one request of each batch takes there alone, in s.
    """
    profile = request.profile
    once_s = 10.0 + (profile.idle_s + 5 if profile.idle_s else 0.0)  # floor, idle power
    rounds_s = 0.0
    for count, latency_s in ((len(devices), each) for devices in models for each in devices):
        for experiment in experiments(request):
            if experiment.batch in latency_s:
                lasts_s = duration_s(request, experiment, request.in_flight or USUALLY_FILLING, latency_s[experiment.batch])
                rounds_s += rounds_of(profile, count) * (lasts_s + profile.warm_up_s + OVERHEAD_S)
        if not request.in_flight:
            once_s += sum(FILL_STEPS * (step_s(profile, each_s) + OVERHEAD_S + STEP_WARM_UP_S) for each_s in latency_s.values())
        if profile.searches and latency_s:
            rate_per_s = 1 / max(1e-4, min(latency_s.values()))
            trial_s = trial_length_s(rate_per_s, profile.trial_s, profile.longest_trial_s) or 0.0
            once_s += SEARCH_TRIALS * (trial_s + profile.warm_up_s + OVERHEAD_S)
    return once_s + rounds_s, once_s + (1 + REPEATED) * rounds_s
