import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnout_server.config import ModelConfiguration


@pytest.mark.parametrize(
    ("device", "kind", "file"),
    [("cuda:1", "cuda", "int8.onnx"), ("cuda:0", "cuda", "fp16.onnx"), ("cpu", "cpu", "model.onnx")],
)
def test_a_device_has_its_own_file_or_its_kinds_or_the_default(device: str, kind: str, file: str) -> None:
    files = {"": "model.onnx", "cuda": "fp16.onnx", "cuda:1": "int8.onnx"}
    assert ModelConfiguration("m", files=files).file_for(device, kind) == file


@pytest.mark.parametrize(
    ("devices", "allowed"),
    [((), True), (("cuda",), True), (("cuda:0",), True), (("cuda:1",), False), (("cpu",), False)],
)
def test_a_model_runs_where_its_configuration_lets_it(devices: tuple[str, ...], allowed: bool) -> None:
    assert ModelConfiguration("m", devices=devices).allows("cuda:0", "cuda") is allowed


@given(st.sets(st.integers(1, 50)), st.integers(1, 5), st.sets(st.integers(1, 50)))
def test_versions_are_selected_ascending_out_of_those_there_are(there: set[int], n: int, wanted: set[int]) -> None:
    def select(versions: int | tuple[int, ...] | None) -> list[int]:
        return ModelConfiguration("m", versions=versions).select(list(there))

    assert select(None) == sorted(there)
    assert select(n) == sorted(there)[-n:]
    assert select(tuple(wanted)) == sorted(there & wanted)
