import time
from pathlib import Path

import numpy as np
import pytest
from turnout_loadtests.sending.samples import OK, UNFINISHED, Recorder, Sample, Samples, merged


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


def recorded(clock: Clock, *samples: Sample, end_s: float = 2.0, text: str = "") -> Samples:
    recorder = Recorder()
    recorder.start()
    for sample in samples:
        recorder.sent()
        recorder.add(sample, text)
    clock.now_s = end_s
    recorder.stop()
    return recorder.samples()


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


def test_requests_in_flight_are_counted_over_time_and_apart_from_the_samples(clock: Clock) -> None:
    recorder = Recorder()
    recorder.sent()
    clock.now_s = 10.0  # the warm-up's
    recorder.start()
    recorder.sent()  # two in flight for one second of four
    clock.now_s = 11.0
    recorder.add(Sample(10.0, 10.0, 11.0, OK))
    assert recorder.in_flight == 1
    clock.now_s = 14.0
    recorder.stop()
    assert recorder.samples().in_flight == pytest.approx((2 * 1 + 1 * 3) / 4)


def test_what_wasnt_sent_or_came_late_is_a_miss(clock: Clock) -> None:
    recorder = Recorder(target_ms=100.0)
    recorder.start()
    for sample in (
        Sample(0, 0, 0.05, OK),
        Sample(0, 0, 0.2, OK),
        Sample(0, 0, 0.01, "UNAVAILABLE"),
        Sample(0, 0, 9, UNFINISHED),
    ):
        recorder.sent()
        recorder.add(sample)
    recorder.drop(0.5)
    recorder.drop(-1.0)  # in the warm-up
    assert recorder.misses == 4
    assert recorder.samples().dropped == 1


def test_the_texts_of_failures_are_counted(clock: Clock) -> None:
    found = recorded(clock, *[Sample(0.1, 0.1, 0.2, "UNAVAILABLE")] * 3, text="it broke")
    assert found.texts == {"UNAVAILABLE: it broke": 3}


def test_samples_are_read_as_they_were_written(tmp_path: Path, clock: Clock) -> None:
    rows = Sample(0.5, 0.5, 0.75, OK, "cuda:0", "fp16", 8, 1, 10, 200), Sample(0.6, 0.6, 0.61, "RESOURCE_EXHAUSTED")
    recorded(clock, *rows).save(tmp_path / "new" / "samples.npz")
    read = Samples.load(tmp_path / "new" / "samples.npz")
    assert read.code.tolist() == [OK, "RESOURCE_EXHAUSTED"]
    assert (read.device.tolist(), read.precision.tolist()) == (["cuda:0", ""], ["fp16", ""])
    assert read.window_s.tolist() == [0.0, 2.0]
    assert (read.client_cpu_s, read.processes, read.texts) == (1.0, 1, {"RESOURCE_EXHAUSTED: ": 1})


def test_the_window_of_several_processes_is_what_all_of_them_measured(clock: Clock) -> None:
    one, other = recorded(clock, Sample(0.1, 0.1, 0.2, OK), end_s=2.0), recorded(clock, Sample(2.1, 2.1, 2.2, OK), end_s=5.0)
    both = merged([one, other])
    assert both.window_s.tolist() == [2.0, 2.0]
    assert (len(both.due_s), both.processes) == (2, 2)
    assert both.client_cpu_s == one.client_cpu_s + other.client_cpu_s


def test_an_empty_recording_can_be_saved(tmp_path: Path) -> None:
    Recorder().samples().save(tmp_path / "none.npz")
    read = Samples.load(tmp_path / "none.npz")
    assert len(read.began_s) == 0
    assert np.isinf(read.window_s).all()
