from pathlib import Path
from typing import Any

import numpy as np
import pytest
from turnout_server.core.errors import FailedPrecondition, Overloaded
from turnout_server.core.model_config import RuntimeOptions
from turnout_server.devices import bucket_session
from turnout_server.devices import device as devices
from turnout_server.devices.bucket_session import BucketSession
from turnout_server.devices.sessions import OnnxSession

from tests import models


def saved(root: Path, model: Any) -> Path:
    models.save(root, "m", model)
    return root / "m/1/model.onnx"


def pair(rows: int) -> dict[str, np.ndarray]:
    a = np.arange(rows * 16, dtype=np.float32).reshape(rows, 16)
    return {"INPUT0": a, "INPUT1": a * 2}


def test_every_size_has_a_session_that_runs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: dict[int, set[int]] = {}
    real = OnnxSession.run

    def run(self: OnnxSession, inputs: Any, outputs: Any) -> list[np.ndarray]:
        ran.setdefault(id(self), set()).add(len(inputs["INPUT0"]))
        return real(self, inputs, outputs)

    monkeypatch.setattr(OnnxSession, "run", run)
    session = BucketSession(saved(tmp_path, models.add_sub()), devices.cpu(), RuntimeOptions(), (1, 4, 8))
    for rows in (1, 2, 3, 4, 5, 8, 9, 20, 1):
        (total,) = session.run(pair(rows), ["OUTPUT0"])
        np.testing.assert_array_equal(total, pair(rows)["INPUT0"] * 3)
    assert sorted(map(sorted, ran.values())) == [[1], [4], [8], [9, 20]]


def test_sizes_that_there_is_no_memory_for_have_none_and_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Limited(OnnxSession):
        opened = 0

        def __init__(self, *arguments: Any) -> None:
            Limited.opened += 1
            if Limited.opened > 3:
                raise Overloaded("a model of 1.0 MiB does not fit")
            super().__init__(*arguments)

    monkeypatch.setattr(bucket_session, "OnnxSession", Limited)
    session = BucketSession(saved(tmp_path, models.add_sub()), devices.cpu(), RuntimeOptions(), (1, 2, 4, 8))
    assert session.buckets == (1, 2)
    assert session.notes == ["no session for 4 rows: a model of 1.0 MiB does not fit"]
    assert session.run(pair(5), ["OUTPUT0"])[0].shape == (5, 16)


def test_a_model_without_a_free_first_axis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="whose first axis is not free"):
        BucketSession(saved(tmp_path, models.identity("FP32", (2, 3))), devices.cpu(), RuntimeOptions(), (1, 2))


def test_sizes_leave_a_share_of_the_memory_to_others(tmp_path: Path) -> None:
    class Gpu:
        free = iter([1000, 500, 149])

        def memory(self) -> tuple[int, int]:
            return next(self.free), 1000

    session = BucketSession(saved(tmp_path, models.add_sub()), devices.cpu(), RuntimeOptions(), (1, 2, 4, 8), Gpu())
    assert session.buckets == (1, 2)
    assert session.notes == ["no session for 4 rows: 0 MiB of GPU memory are left"]
