"""The options of the locustfile: added to Locust's parser, and read into plain values with a message for each mistake."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from turnout_loadtests.client import read_service_config
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.sending.load import CLOSED, GOLDEN, OPEN, RANDOM, Load

DEFAULT_HOST = "127.0.0.1:8001"
#: Names of files: never on the page, because anyone who reaches it could have one read or overwritten.
PATHS = ("payload_file", "model_repository", "samples", "service_config")
#: The device of requests whose device their user class chooses.
OWN = "own"
#: How long the server may take to say which models and devices it has, before the page opens without these choices.
ASKING_S = 5.0


class Choices(list[str]):
    """What the page offers for an option; any other text is accepted, too, and judged by the server."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)


def add_options(parser: Any) -> None:
    """Adds the options to Locust's parser. The page shows those that are added to the parser itself, not those of a group."""
    offered = Offered() if _without_page(sys.argv) else offered_by(_host_of(sys.argv))

    def add(name: str, default: Any, text: str, **more: Any) -> None:
        variable = f"LOCUST_{name[2:].replace('-', '_').upper()}"
        parser.add_argument(name, default=default, env_var=variable, help=text, **more)

    def choices(found: Sequence[str]) -> dict[str, Any]:
        return {"choices": Choices(found)} if found else {}

    add("--model", offered.models[0] if offered.models else "", "model to load; by default the server's first",
        **choices(offered.models))  # fmt: skip
    add("--device", OWN, f"device of every request: auto, cpu, cuda, cuda:1, ...; {OWN}: that of the user class",
        **choices((OWN, *offered.devices) if offered.devices else ()))  # fmt: skip
    add("--batch", 1, "rows in each request", type=int)
    add("--arrival", CLOSED, "closed: a user sends once it has its answer; open: at random moments, answered or not",
        choices=[CLOSED, OPEN])  # fmt: skip
    add("--rate-per-user", 10.0, "requests per second of each user, if the arrival is open", type=float)
    add(
        "--max-in-flight",
        256,
        "most requests in flight in a process, if the arrival is open; others are dropped",
        type=int,
    )
    add("--timeout", 30.0, "deadline of a request in seconds", type=float)
    add("--slo-p99-ms", 0.0, "latency target in milliseconds: the test fails if p99 is longer; 0 for none", type=float)
    add("--payload", RANDOM, "rows to send: random, golden (published with the model), or on the command line an .npz")
    add("--shape", "", "sizes of free dimensions: 'tokens:128 image:3,224,224'")
    add("--warm-up", 1.0, "seconds of load before the measurement", type=float)
    add("--duration", 0.0, "seconds to measure; 0: until stopped", type=float)
    add("--metrics", "", "address of the server's metrics, for utilisation and power; by default port 8002 beside 8001")
    add("--model-repository", "", "directory in which to find golden inputs", include_in_web_ui=False)
    add("--service-config", "", "a file with gRPC's service config, in JSON", include_in_web_ui=False)
    add("--samples", "", "an .npz to write every sample to", include_in_web_ui=False)


@dataclass(frozen=True)
class Offered:
    """What a server has, as far as it could be asked."""

    models: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


def offered_by(host: str) -> Offered:
    """The models and devices of the server; none if it doesn't answer. What it has answered isn't asked again.

    Another process asks, because a gRPC channel that was used before Locust forks its workers keeps them from ending.
    """
    if host not in _ANSWERS and (found := _ask(host)).models:
        _ANSWERS[host] = found
    return _ANSWERS.get(host, Offered())


_ANSWERS: dict[str, Offered] = {}  # Locust makes its parser anew for each view of the page


def _ask(host: str) -> Offered:
    command = [sys.executable, "-m", "turnout_loadtests.sending.offered", host]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * ASKING_S, check=True)
        return Offered(**{name: tuple(values) for name, values in json.loads(done.stdout).items()})
    except (OSError, subprocess.SubprocessError, ValueError):
        return Offered()


def load_of(options: Mapping[str, Any], host: str) -> Load:
    """The load of one user class that these options describe; the device is empty unless an option states it.

    Raises:
        LoadTestError: a value is wrong; the text names it.
    """
    values = {name: _read(name, options[name]) for name in READERS}
    is_open = values["arrival"] == OPEN
    return Load(
        host=host,
        model=values["model"],
        device="" if values["device"] == OWN else values["device"],
        batch=values["batch"],
        arrival=values["arrival"],
        in_flight=values["max_in_flight"] if is_open else 1,
        rate_per_s=values["rate_per_user"] if is_open else 0.0,
        users=1,
        warm_up_s=values["warm_up"],
        duration_s=values["duration"],
        timeout_s=values["timeout"],
        shape=values["shape"],
        payload=values["payload"],
        repository=str(options.get("model_repository") or ""),
        service_config=read_service_config(str(options.get("service_config") or "")),
        target_ms=values["slo_p99_ms"] or None,
    )


def check_form(form: Mapping[str, str], visible: Sequence[str], payloads: Sequence[str]) -> None:
    """Checks the fields of the page's form before Locust takes them over.

    Args:
        visible: names of the fields that the page shows besides Locust's own.
        payloads: what `payload` may be. A path counts only if it was given on the command line.

    Raises:
        LoadTestError: a value can't be read, or there is no such field on the page.
    """
    for name, text in form.items():
        if name in LOCUST_FIELDS:
            continue
        if name not in visible:
            raise LoadTestError(f"the page has no field '{name}'; set it on the command line")
        if name in READERS:
            _read(name, text)
    if (payload := form.get("payload", RANDOM)) not in payloads:
        raise LoadTestError(f"payload {payload!r}: files are named on the command line; here it is {' or '.join(payloads)}")


#: The fields of Locust's own form, which it checks itself.
LOCUST_FIELDS = ("user_count", "spawn_rate", "host", "run_time", "user_classes", "shape_class", "profile")


def _read(name: str, value: Any) -> Any:
    try:
        return READERS[name](value)
    except (TypeError, ValueError) as error:
        expected = str(error) if isinstance(error, _Expected) else "a number"
        raise LoadTestError(f"--{name.replace('_', '-')} is {value!r}, but has to be {expected}") from None


class _Expected(ValueError):
    """The text says what was expected."""


def _number(low: float, expected: str, *, above: bool = False) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            number = float(value)
        except ValueError:
            raise _Expected(expected) from None
        if not math.isfinite(number) or number < low or (above and number == low):
            raise _Expected(expected)
        return number

    return read


def _count(value: Any) -> int:
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise _Expected("a whole number above 0")
    return number


def _arrival(value: Any) -> str:
    if value not in (CLOSED, OPEN):
        raise _Expected(f"{CLOSED} or {OPEN}")
    return str(value)


READERS: dict[str, Callable[[Any], Any]] = {
    "model": str,
    "device": str,
    "batch": _count,
    "arrival": _arrival,
    "rate_per_user": _number(0.0, "a number of requests per second above 0", above=True),
    "max_in_flight": _count,
    "timeout": _number(0.0, "a number of seconds above 0", above=True),
    "slo_p99_ms": _number(0.0, "a number of milliseconds, or 0 for no target"),
    "payload": str,
    "shape": str,
    "warm_up": _number(0.0, "a number of seconds"),
    "duration": _number(0.0, "a number of seconds, or 0 to run until stopped"),
}


def page_payloads(given: str) -> list[str]:
    """What `payload` may be on the page, if this was given on the command line."""
    return list(dict.fromkeys([RANDOM, GOLDEN, given]))


def _without_page(arguments: Sequence[str]) -> bool:
    """Whether this process shows no page, so that it needs no choices."""
    return bool({"--headless", "--worker"} & {*arguments}) or "LOCUST_HEADLESS" in os.environ


def _host_of(arguments: Sequence[str]) -> str:
    """The server's address, from Locust's `--host` or its variable, before Locust has parsed its arguments."""
    for place, argument in enumerate(arguments):
        if argument in ("--host", "-H") and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith("--host="):
            return argument.partition("=")[2]
    return os.environ.get("LOCUST_HOST", DEFAULT_HOST)
