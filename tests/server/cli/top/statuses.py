"""Answers of /status for tests."""

from typing import Any

BOUNDS_MS = [1.0, 10.0, 100.0]


def entry(device: str = "cpu", counts: tuple[int, ...] = (0, 0, 0, 0), **other: Any) -> dict[str, Any]:
    """A model on a device that answered requests with these latencies."""
    answered = sum(counts)
    return {
        "device": device,
        "precision": "fp32",
        "nodes": {"CPUExecutionProvider": 3},
        "waiting": 0,
        "running": 0,
        "answered": answered,
        "runs": answered,
        "run_rows": answered,
        "busy_s": answered * 0.1,
        "failures": {},
        "routes": {"requested": answered},
        "latency_counts": list(counts),
        **other,
    }


def model(*entries: dict[str, Any], name: str = "m", **other: Any) -> dict[str, Any]:
    return {"name": name, "version": "1", "state": "READY", "reason": "", "failures": {}, "devices": list(entries), **other}


def device(name: str = "cpu", **other: Any) -> dict[str, Any]:
    return {
        "name": name,
        "up": True,
        "reason": "",
        "restarts": 0,
        "instances": 1,
        "waiting": 0,
        "running": 0,
        **other,
    }


def status(uptime_s: float, *models: dict[str, Any], devices: tuple[dict[str, Any], ...] = (), **server: Any) -> dict[str, Any]:
    facts = {"name": "box", "version": "1.2", "ready": True, "draining": False, "settled": True, "uptime_s": uptime_s, **server}
    return {
        "schema_version": 1,
        "server": facts,
        "latency_bounds_ms": BOUNDS_MS,
        "devices": list(devices or (device(),)),
        "missing": {},
        "models": list(models),
    }
