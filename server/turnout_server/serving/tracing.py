"""Traces of single requests: the start time of each step, as one JSON object per line (TraceSetting).

Settings are Triton's: `trace_level` (`OFF` or `TIMESTAMPS`), `trace_rate` (n for every n-th request), `trace_count` (traces
left to write; -1 for no limit), `log_frequency` (traces to buffer before writing them; 0 to write at once), `trace_file`,
`trace_mode`.
"""

import json
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from turnout_server.core.errors import InvalidRequest

logger = logging.getLogger(__name__)

Settings = dict[str, list[str]]

_NUMBER = re.compile(r"-?[0-9]{1,18}")


class Tracer:
    """Writes traces of the requests that its settings select. Any thread may call any method.

    Args:
        file: the file that traces are appended to; None if the server was started without one.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._default: Settings = {
            "trace_file": [str(file or "")],
            "trace_level": ["OFF"],
            "trace_rate": ["1000"],
            "trace_count": ["-1"],
            "log_frequency": ["0"],
            "trace_mode": ["triton"],
        }
        self._global = dict(self._default)
        self._by_model: dict[str, Settings] = {}
        self._seen = count()
        self._ids = count(1)
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._failing = False
        self.active = False

    def settings(self, model: str = "") -> Settings:
        """The effective settings of one model, or of all models that have none of their own."""
        return {**self._global, **self._by_model.get(model, {})}

    def update(self, changes: Mapping[str, Sequence[str]], model: str = "") -> None:
        """Changes settings: all of these, or none. An empty value resets a setting, a model's to the global one.

        Raises:
            InvalidRequest: one doesn't exist, or can't have that value.
        """
        for key, values in changes.items():
            self._check(key, list(values))
        with self._lock:
            target = self._by_model.setdefault(model, {}) if model else self._global
            for key, values in changes.items():
                if values:
                    target[key] = list(values)
                elif model:
                    target.pop(key, None)
                else:
                    target[key] = self._default[key]
            self.active = any("TIMESTAMPS" in self.settings(name)["trace_level"] for name in ("", *self._by_model))

    def record(self, model: str, version: str, device: str, request_id: str, timestamps_ns: Mapping[str, int]) -> None:
        """Traces a finished request, if the settings select it."""
        settings = self.settings(model)
        if "TIMESTAMPS" not in settings["trace_level"] or next(self._seen) % int(settings["trace_rate"][0]):
            return
        with self._lock:
            if not self._take_one(model):
                return
            trace = {
                "id": next(self._ids),
                "model_name": model,
                "model_version": version,
                "request_id": request_id,
                "device": device,
                "timestamps": [{"name": name, "ns": ns} for name, ns in timestamps_ns.items()],
            }
            self._lines.append(json.dumps(trace) + "\n")
            if len(self._lines) >= int(settings["log_frequency"][0]):
                self._write()

    def close(self) -> None:
        """Writes the buffered traces."""
        with self._lock:
            self._write()

    def _take_one(self, model: str) -> bool:
        """Counts `trace_count` down; False once it is used up."""
        target = self._by_model.get(model, {})
        owner = target if "trace_count" in target else self._global
        left = int(owner["trace_count"][0])
        if left > 0:
            owner["trace_count"] = [str(left - 1)]
        return left != 0

    def _write(self) -> None:
        """Writes the buffered traces; those that can't be written are dropped: no request fails for its trace."""
        try:
            if self._file is not None and self._lines:
                with self._file.open("a", encoding="utf-8") as file:
                    file.writelines(self._lines)
            self._failing = False
        except OSError as error:
            if not self._failing:  # once, not for every request
                logger.error("traces are dropped until %s can be written again: %s", self._file, error.strerror)
            self._failing = True
        finally:
            self._lines.clear()

    def _check(self, key: str, values: list[str]) -> None:
        if key not in self._default:
            raise InvalidRequest(f"unknown trace setting '{key}'; known are {list(self._default)}")
        if key in ("trace_file", "trace_mode"):
            raise InvalidRequest(f"'{key}' can not be updated through network protocol")
        if not values:
            return
        if key == "trace_level":
            self._check_level(values)
        elif len(values) != 1 or not _NUMBER.fullmatch(values[0]) or int(values[0]) < _LEAST[key]:
            raise InvalidRequest(f"'{key}' must be one whole number >= {_LEAST[key]}, got {values}")

    def _check_level(self, values: list[str]) -> None:
        if any(value not in ("OFF", "TIMESTAMPS") for value in values):
            raise InvalidRequest(f"trace_level must be OFF or TIMESTAMPS, got {values}; tensors are not traced")
        if "TIMESTAMPS" in values and self._file is None:
            raise InvalidRequest("there is no file to write traces to; start the server with --trace-file")


_LEAST = {"trace_rate": 1, "trace_count": -1, "log_frequency": 0}
