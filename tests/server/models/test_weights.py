from pathlib import Path

from turnout_server.models.weights import weight_bytes


def test_external_data_counts_if_the_model_names_it(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"....model.onnx.data....more/w.bin....")
    (tmp_path / "more").mkdir()
    for name, size in {
        "model.onnx.data": 1000,
        "more/w.bin": 500,
        "labels.txt": 7,
        "golden.npz": 9,
        "model.fp16.onnx": 11,
    }.items():
        (tmp_path / name).write_bytes(bytes(size))
    assert weight_bytes(model) == model.stat().st_size + 1500


def test_what_is_not_there_or_empty_weighs_nothing(tmp_path: Path) -> None:
    assert weight_bytes(tmp_path / "nothing.onnx") == 0
    (tmp_path / "model.onnx").touch()
    (tmp_path / "labels.txt").touch()
    assert weight_bytes(tmp_path / "model.onnx") == 0
