"""The page of `turnout-server top` as text."""

from collections.abc import Iterator
from typing import Any

from turnout_server.cli.textpage import table, wrapped
from turnout_server.cli.top.rates import Key, Rates, Status, quantile, use_of

_DEVICES = ("DEVICE", "STATE", "IN USE", "WAITING", "RUNNING", "REQ/S", "RESTARTS")
_MODELS = ("MODEL", "DEVICE", "STATE", "REQ/S", "P50 MS", "P99 MS", "ROWS/RUN", "WAITING", "RUNNING", "FAILED")
_ROUTES = ("MODEL", "DEVICE", "REASON", "REQUESTS")


def as_text(status: Status, rates: dict[Key, Rates]) -> str:
    """The page for one answer of /status, and what happened since an earlier one."""
    return "\n".join(map(_printable, _lines(status, rates)))


def _lines(status: Status, rates: dict[Key, Rates]) -> Iterator[str]:
    server = status["server"]
    span_s = max((each.span_s for each in rates.values()), default=0.0)
    yield f"{server['name']}  {_state(server)}  Turnout {server['version']}, up {server['uptime_s'] / 60:.0f} min"
    yield f"rates, latencies and use: the last {span_s:.0f} s; failures and routes: since the start"
    yield ""
    yield from table(_DEVICES, [_device(device, rates) for device in status["devices"]])
    yield ""
    yield from table(_MODELS, list(_models(status, rates)))
    for name, reason in _reasons(status):
        yield from wrapped(f"  {name}: {reason}", 4)
    routes = list(_routes(status))
    if routes:
        yield ""
        yield from table(_ROUTES, routes)


def _state(server: dict[str, Any]) -> str:
    if server["draining"]:
        return "stopping"
    return "ready" if server["ready"] else "not ready" if server["settled"] else "loading models"


def _device(device: dict[str, Any], rates: dict[Key, Rates]) -> tuple[str, ...]:
    use = use_of(device, rates)
    own = [each.requests_per_s for (_, _, name), each in rates.items() if name == device["name"]]
    known = [rate for rate in own if rate is not None]
    return (
        device["name"],
        "working" if device["up"] else "down",
        "-" if use is None else f"{use:.0%}",
        str(device["waiting"]),
        str(device["running"]),
        _number(sum(known) if known else None),
        str(device["restarts"]),
    )


def _models(status: Status, rates: dict[Key, Rates]) -> Iterator[tuple[str, ...]]:
    bounds = status["latency_bounds_ms"]
    for model in status["models"]:
        name, state = _name(model), model["state"].lower()
        refused = sum(model["failures"].values())
        if refused or not model["devices"]:
            yield name, "none", state, *["-"] * 6, str(refused)
        for entry in model["devices"]:
            own = rates.get((model["name"], model["version"], entry["device"]), Rates())
            yield (
                name,
                f"{entry['device']} {entry['precision']}",
                state,
                _number(own.requests_per_s),
                _number(quantile(0.5, bounds, own.latency_counts), 2),
                _number(quantile(0.99, bounds, own.latency_counts), 2),
                _number(own.rows_per_run),
                str(entry["waiting"]),
                str(entry["running"]),
                str(sum(entry["failures"].values())),
            )


def _routes(status: Status) -> Iterator[tuple[str, ...]]:
    for model in status["models"]:
        for entry in model["devices"]:
            for reason, count in entry["routes"].items():
                if count:
                    yield _name(model), entry["device"], reason, str(count)


def _reasons(status: Status) -> Iterator[tuple[str, str]]:
    """Why devices and models don't work, by name."""
    yield from ((device["name"], device["reason"]) for device in status["devices"] if device["reason"])
    yield from ((_name(model), model["reason"]) for model in status["models"] if model["reason"])


def _name(model: dict[str, Any]) -> str:
    return f"{model['name']} {model['version']}".strip()


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _printable(text: str) -> str:
    """The text without control characters: names come from a server, and could move a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)
