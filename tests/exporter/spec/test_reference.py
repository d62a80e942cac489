from pathlib import Path

import numpy as np
from turnout_exporter.spec import reference
from turnout_exporter.spec.points import Point
from turnout_exporter.spec.reference import Sample


def sample(rows: int, seq: int = 3) -> Sample:
    point = Point({"batch": rows, "seq": seq})
    ids = np.arange(rows * seq).reshape(rows, seq)
    return Sample(point, {"ids": ids}, {"scores": ids.astype(np.float32), "deep/name": np.array(float(rows))})


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [sample(2), sample(1), sample(7)]
    reference.write(tmp_path / "golden.npz", written)
    read = reference.read(tmp_path / "golden.npz")
    assert [s.point for s in read] == [s.point for s in written]
    for one, other in zip(read, written, strict=True):
        np.testing.assert_equal(one.inputs, other.inputs)
        np.testing.assert_equal(one.outputs, other.outputs)


def test_arrays_are_named_after_point_side_and_tensor(tmp_path: Path) -> None:
    reference.write(tmp_path / "golden.npz", [sample(2)])
    with np.load(tmp_path / "golden.npz", allow_pickle=False) as file:
        assert file.files == ["batch=2,seq=3/in/ids", "batch=2,seq=3/out/scores", "batch=2,seq=3/out/deep/name"]


def test_golden_samples_are_the_two_smallest_with_one_of_several_rows() -> None:
    samples = [sample(2), sample(1), sample(7), sample(1, seq=1), sample(2, seq=64)]
    assert [s.point.sizes for s in reference.golden(samples)] == [{"batch": 2, "seq": 3}, {"batch": 1, "seq": 1}]


def test_a_model_without_a_batch_has_two_golden_samples_too() -> None:
    samples = [Sample(Point({"seq": size}), {"x": np.zeros(size)}) for size in (4, 2, 9)]
    assert [s.point.sizes for s in reference.golden(samples)] == [{"seq": 2}, {"seq": 4}]
