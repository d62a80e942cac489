import zipfile
from pathlib import Path

import numpy as np
from turnout_exporter.spec import reference
from turnout_exporter.spec.points import Point
from turnout_exporter.spec.reference import Sample


def sample(rows: int, seq: int = 3) -> Sample:
    point = Point({"batch": rows, "seq": seq})
    ids = np.arange(rows * seq).reshape(rows, seq)
    return Sample(point, {"ids": ids}, {"scores": ids.astype(np.float32), "deep/name": np.array(float(rows))})


def assert_same(read: list[Sample], written: list[Sample]) -> None:
    assert [s.point for s in read] == [s.point for s in written]
    for one, other in zip(read, written, strict=True):
        np.testing.assert_equal(one.inputs, other.inputs)
        np.testing.assert_equal(one.outputs, other.outputs)


def test_golden_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [sample(2), sample(1), sample(7)]
    reference.write_golden(tmp_path / "golden.npz", written)
    assert_same(reference.read_golden(tmp_path / "golden.npz"), written)


def test_samples_are_added_to_those_in_a_folder(tmp_path: Path) -> None:
    reference.write(tmp_path / "samples", [sample(2), sample(1)])
    reference.write(tmp_path / "samples", [sample(7)])
    assert_same(reference.read(tmp_path / "samples"), [sample(2), sample(1), sample(7)])


def test_a_tensor_may_have_a_longer_name_than_a_file(tmp_path: Path) -> None:
    written = [Sample(Point({}), {"i" * 300: np.zeros(2)}, {"o" * 300: np.array(["text", ""])})]
    reference.write(tmp_path / "samples", written)
    reference.write_golden(tmp_path / "golden.npz", written)
    assert_same(reference.read(tmp_path / "samples"), written)
    assert_same(reference.read_golden(tmp_path / "golden.npz"), written)


def test_large_samples_are_not_compressed(tmp_path: Path) -> None:
    for name, side in (("small.npz", 10), ("large.npz", 2100)):
        reference.write_golden(tmp_path / name, [Sample(Point({}), {"x": np.zeros((side, side))}, {})])
    compressed = {name: zipfile.ZipFile(tmp_path / name).infolist()[0].compress_type for name in ("small.npz", "large.npz")}
    assert compressed == {"small.npz": zipfile.ZIP_DEFLATED, "large.npz": zipfile.ZIP_STORED}


def test_arrays_are_named_after_point_side_and_tensor(tmp_path: Path) -> None:
    reference.write_golden(tmp_path / "golden.npz", [sample(2)])
    with np.load(tmp_path / "golden.npz", allow_pickle=False) as file:
        assert file.files == ["batch=2,seq=3/in/ids", "batch=2,seq=3/out/scores", "batch=2,seq=3/out/deep/name"]


def test_golden_samples_are_the_smallest_and_one_of_several_rows_and_elements() -> None:
    samples = [sample(2), sample(2, seq=1), sample(1), sample(7), sample(1, seq=1), sample(2, seq=64)]
    assert [s.point.sizes for s in reference.golden(samples)] == [{"batch": 2, "seq": 3}, {"batch": 1, "seq": 1}]


def test_a_single_sample_of_several_rows_is_golden_even_where_another_size_is_1() -> None:
    samples = [sample(1, seq=4), sample(2, seq=1)]
    assert [s.point.sizes["batch"] for s in reference.golden(samples)] == [2, 1]


def test_a_model_without_a_batch_has_two_golden_samples_too() -> None:
    samples = [Sample(Point({"seq": size}), {"x": np.zeros(size)}) for size in (4, 2, 9)]
    assert [s.point.sizes for s in reference.golden(samples)] == [{"seq": 2}, {"seq": 4}]
