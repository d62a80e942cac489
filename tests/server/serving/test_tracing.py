"""Which requests are traced, and what a trace has."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from turnout_server.core.errors import InvalidRequest
from turnout_server.serving.tracing import Tracer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "traces"


@pytest.fixture
def tracer(file: Path) -> Tracer:
    tracer = Tracer(file)
    tracer.update({"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"]})
    return tracer


def record(tracer: Tracer, *ids: str, model: str = "m") -> None:
    for request_id in ids:
        tracer.record(model, "1", "cpu", request_id, {"REQUEST_START": 1, "REQUEST_END": 2})


def traces(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def ids(file: Path) -> list[str]:
    return [trace["request_id"] for trace in traces(file)]


def test_a_trace_has_the_request_and_the_start_of_each_step(tracer: Tracer, file: Path) -> None:
    record(tracer, "a")
    assert traces(file) == [
        {
            "id": 1,
            "model_name": "m",
            "model_version": "1",
            "request_id": "a",
            "device": "cpu",
            "timestamps": [{"name": "REQUEST_START", "ns": 1}, {"name": "REQUEST_END", "ns": 2}],
        }
    ]


def test_tracing_is_off_by_default(file: Path) -> None:
    tracer = Tracer(file)
    assert not tracer.active
    record(tracer, "a")
    assert ids(file) == []


def test_the_rate_selects_every_nth_request(tracer: Tracer, file: Path) -> None:
    tracer.update({"trace_rate": ["3"]})
    record(tracer, *"abcdefg")
    assert len(ids(file)) == pytest.approx(7 / 3, abs=1)


def test_the_count_limits_the_number_of_traces(tracer: Tracer, file: Path) -> None:
    tracer.update({"trace_count": ["2"]})
    record(tracer, *"abc")
    assert ids(file) == ["a", "b"]
    assert tracer.settings()["trace_count"] == ["0"]


def test_traces_can_be_buffered_before_they_are_written(tracer: Tracer, file: Path) -> None:
    tracer.update({"log_frequency": ["2"]})
    record(tracer, "a")
    assert ids(file) == []
    record(tracer, "b", "c")
    assert ids(file) == ["a", "b"]
    tracer.close()
    assert ids(file) == ["a", "b", "c"]


def test_a_models_own_settings_can_be_set_and_reset(tracer: Tracer, file: Path) -> None:
    tracer.update({"trace_level": ["OFF"]}, "quiet")
    record(tracer, "a", model="quiet")
    record(tracer, "b", model="loud")
    assert ids(file) == ["b"]
    tracer.update({"trace_level": []}, "quiet")
    record(tracer, "c", model="quiet")
    assert ids(file) == ["b", "c"]


def test_an_empty_value_restores_the_default(tracer: Tracer) -> None:
    tracer.update({"trace_level": [], "trace_rate": []})
    assert (tracer.settings()["trace_level"], tracer.settings()["trace_rate"]) == (["OFF"], ["1000"])
    assert not tracer.active


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("trace_levels", ["OFF"]),
        ("trace_level", ["TENSORS"]),
        ("trace_rate", ["0"]),
        ("trace_rate", ["x"]),
        ("trace_rate", ["1", "2"]),
        ("trace_rate", ["9" * 5000]),
        ("trace_count", ["-2"]),
        ("log_frequency", ["-1"]),
        ("trace_file", ["elsewhere"]),
        ("trace_mode", ["opentelemetry"]),
    ],
)
def test_a_wrong_setting_is_refused_together_with_the_others_of_its_request(
    tracer: Tracer, key: str, values: Sequence[str]
) -> None:
    before = tracer.settings()
    with pytest.raises(InvalidRequest, match=key):
        tracer.update({"trace_count": ["5"], key: values} if key != "trace_count" else {key: values})
    assert tracer.settings() == before


def test_without_a_file_the_error_names_the_flag() -> None:
    with pytest.raises(InvalidRequest, match="--trace-file"):
        Tracer(None).update({"trace_level": ["TIMESTAMPS"]})


def test_traces_that_cannot_be_written_fail_no_request_and_are_logged_once(
    tracer: Tracer, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.mkdir()
    record(tracer, "a", "b")
    assert len(caplog.records) == 1
    assert "traces are dropped until" in caplog.text
    file.rmdir()
    record(tracer, "c")
    assert ids(file) == ["c"]


def test_106_a_full_disk_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    full = Tracer(Path("/dev/full"))
    full.update({"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"]})
    record(full, "a", "b")
    full.close()
    assert "No space left on device" in caplog.text
