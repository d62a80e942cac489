"""A device with several instances copies the tensors of one batch while it runs another."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices import device as devices
from turnout_server.devices import remote_session
from turnout_server.devices.process_engine import ProcessEngine

from tests import models

#: 19 MB, which the server copies in and the model copies out: the two take the same time.
SHAPE = (32, 3, 224, 224)
RUNS = 20


@dataclass
class Recording:
    """When each thread copied inputs, and when it ran, in seconds."""

    copied: list[tuple[str, float, float]] = field(default_factory=list)
    ran: list[tuple[str, float, float]] = field(default_factory=list)

    @contextmanager
    def into(self, spans: list[tuple[str, float, float]]) -> Iterator[None]:
        began_s = time.monotonic()
        yield
        spans.append((threading.current_thread().name, began_s, time.monotonic()))

    def overlaps(self) -> bool:
        """Whether one thread copied while another ran."""
        return any(
            copier != runner and copy_start < run_end and run_start < copy_end
            for copier, copy_start, copy_end in self.copied
            for runner, run_start, run_end in self.ran
        )


@pytest.mark.parametrize("instances", [1, 2])
def test_copies_and_runs_overlap_where_a_device_has_several_instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instances: int
) -> None:
    models.save(tmp_path, "m", models.identity("FP32", [-1, *SHAPE[1:]]))
    engine = ProcessEngine(replace(devices.cpu(), name="cpu:child", threads=1, isolated=True, instances=instances))
    recording = Recording()
    fill = remote_session._fill

    def recorded(target: np.ndarray, arrays: Sequence[np.ndarray]) -> None:
        with recording.into(recording.copied):
            fill(target, arrays)

    monkeypatch.setattr(remote_session, "_fill", recorded)
    try:
        session = engine.open(tmp_path / "m/1/model.onnx", RuntimeOptions())
        inputs, outputs = {session.inputs[0].name: np.ones(SHAPE, np.float32)}, [session.outputs[0].name]

        def work() -> None:
            for _ in range(RUNS):
                with session.stage([inputs], outputs) as run, recording.into(recording.ran):
                    run()

        threads = [threading.Thread(target=work, name=name) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
    finally:
        engine.stop()
    assert len(recording.ran) == 2 * RUNS
    assert recording.overlaps() is (instances > 1)
