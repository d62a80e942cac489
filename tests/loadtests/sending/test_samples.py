import time
from pathlib import Path

import pytest
from turnout_loadtests.samples import Recorder, Sample, Samples


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(time, "process_time", lambda: clock.now_s / 2)
    return clock


def test_only_what_begins_within_the_window_counts(clock: Clock) -> None:
    recorder = Recorder()
    assert not recorder.counts(5.0)
    clock.now_s = 1.0
    recorder.start()
    assert [recorder.counts(at_s) for at_s in (0.9, 1.0, 5.0)] == [False, True, True]
    clock.now_s = 3.0
    recorder.stop()
    assert [recorder.counts(at_s) for at_s in (2.9, 3.0)] == [True, False]
    assert recorder.samples().client_cpu_s == 1.0


def test_samples_are_read_as_they_were_written(tmp_path: Path, clock: Clock) -> None:
    recorder = Recorder()
    recorder.start()
    recorder.add(Sample(0.5, 0.75, "OK", "cuda:0", 8, 10, 200))
    recorder.add(Sample(0.6, 0.61, "RESOURCE_EXHAUSTED", "", 0, 0, 0))
    clock.now_s = 2.0
    recorder.stop()
    recorder.samples().save(tmp_path / "new" / "samples.npz")
    read = Samples.load(tmp_path / "new" / "samples.npz")
    assert read.code.tolist() == ["OK", "RESOURCE_EXHAUSTED"]
    assert read.device.tolist() == ["cuda:0", ""]
    assert read.window_s.tolist() == [0.0, 2.0]
    assert float(read.client_cpu_s) == 1.0


def test_an_empty_recording_can_be_saved(tmp_path: Path) -> None:
    Recorder().samples().save(tmp_path / "none.npz")
    assert len(Samples.load(tmp_path / "none.npz").began_s) == 0
