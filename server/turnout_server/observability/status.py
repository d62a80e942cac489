"""What a server is doing now, as JSON: devices, models, placement, queues, routes and latency. For its page and `top`.

Counts grow from the server's start; readers take the difference of two answers for rates.
"""

import json
import time
from collections.abc import Callable
from typing import Any

from turnout_server.core.metrics import SECONDS, Metrics, Series
from turnout_server.devices.engines import Engines
from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion
from turnout_server.models.repository import Repository
from turnout_server.observability.http import Answer
from turnout_server.serving.dataplane import DataPlane

PATH = "/status"
SCHEMA_VERSION = 1


class Status:
    """Reads the state of a server. Any thread may call it.

    Args:
        requests: returns how many requests wait for a model on a device, and how many run there.
        name, version: the server's.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        repository: Repository,
        engines: Engines,
        metrics: Metrics,
        requests: Callable[[Deployment], tuple[int, int]],
        *,
        name: str,
        version: str,
    ) -> None:
        self._dataplane = dataplane
        self._repository = repository
        self._engines = engines
        self._metrics = metrics
        self._requests = requests
        self._about = {"name": name, "version": version}
        self._started_s = time.monotonic()

    def answer(self, _: str) -> Answer:
        """The status as an HTTP response."""
        return Answer("200 OK", "application/json", json.dumps(self.read()), (("Cache-Control", "no-store"),))

    def read(self) -> dict[str, Any]:
        """The status now."""
        totals = self._metrics.totals()
        return {
            "schema_version": SCHEMA_VERSION,
            "server": {
                **self._about,
                "ready": self._dataplane.ready(),
                "draining": self._dataplane.draining,
                "settled": self._repository.settled,
                "uptime_s": round(time.monotonic() - self._started_s, 3),
            },
            "latency_bounds_ms": [bound * 1e3 for bound in SECONDS],
            "devices": self._devices(),
            "missing": dict(self._engines.missing),
            "models": [
                self._model(entry.name, entry.version, entry.state, entry.reason, totals) for entry in self._repository.index()
            ],
        }

    def _devices(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "provider": self._engines.by_name[name].device.provider,
                "up": state.up,
                "reason": str(self._engines.by_name[name].unavailable_reason() or ""),
                "restarts": state.restarts,
                "instances": state.instances,
                "waiting": state.waiting,
                "running": state.running,
                "idle_w": state.idle_w,
                "busy_w": state.busy_w,
            }
            for name, state in self._metrics.device_states().items()
        ]

    def _model(
        self, name: str, version: str, state: str, reason: str, totals: dict[tuple[str, str, str], Series]
    ) -> dict[str, Any]:
        loaded = next((each for each in self._repository.ready(name) if str(each.version) == version), None)
        return {
            "name": name,
            "version": version,
            "state": state or "UNLOADED",
            "reason": reason,
            "batchable": bool(loaded and loaded.batchable),
            "failures": dict(totals.get((name, version, ""), Series()).failures),  # before a device was chosen
            "unavailable": {device: str(why) for device, why in loaded.unavailable.items()} if loaded else {},
            "devices": [self._deployment(loaded, device, totals) for device in loaded.deployments] if loaded else [],
        }

    def _deployment(self, model: ModelVersion, device: str, totals: dict[tuple[str, str, str], Series]) -> dict[str, Any]:
        deployment = model.deployments[device]
        series = totals.get(deployment.key, Series())
        precisions = model.on(device)
        requests = [self._requests(each) for each in precisions]
        return {
            "device": device,
            "precision": " ".join(each.precision for each in precisions),
            "nodes": dict(deployment.report.placement),
            "max_batch_rows": deployment.effective_max_batch,
            "load_s": deployment.report.load_s,
            "parity_error": deployment.report.parity.error,
            "waiting": sum(waiting for waiting, _ in requests),
            "running": sum(running for _, running in requests),
            "answered": series.answered,
            "rows": series.rows,
            "runs": series.executions,
            "run_rows": series.batch_rows.total,
            "busy_s": series.busy_s,
            "failures": dict(series.failures),
            "routes": dict(series.reasons),
            "latency_counts": list(series.request_s.counts),
            "latency_total_s": series.request_s.total,
        }
