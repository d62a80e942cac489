import json
from pathlib import Path

import onnx
import pytest
from turnout_server.models.profile_store import ProfileKey, ProfileStore, sha256_of
from turnout_server.scheduling.profiles import Profile

from tests import models

KEY = ProfileKey("abc", "model.onnx", "cpu x2", "1.32.0", "defaults")


def profile() -> Profile:
    made = Profile()
    made.measure(1, [10, 12, 11])
    made.measure(8, [50])
    return made


def test_a_profile_is_loaded_under_the_key_it_was_saved_under(tmp_path: Path) -> None:
    ProfileStore(tmp_path / "cache").save(KEY, profile())
    loaded = ProfileStore(tmp_path / "cache").load(KEY)
    assert loaded is not None
    assert loaded.saved() == profile().saved()
    assert (loaded.predict_us(1), loaded.fastest_us(1), loaded.runs(1)) == (11, 10, 3)


@pytest.mark.parametrize("field", ["model_sha256", "file", "device", "runtime", "options"])
def test_a_profile_is_not_loaded_under_any_other_key(tmp_path: Path, field: str) -> None:
    store = ProfileStore(tmp_path)
    store.save(KEY, profile())
    other = ProfileKey(**{**KEY.__dict__, field: "another"})
    assert store.load(other) is None
    (tmp_path / KEY.name).rename(tmp_path / other.name)  # nor under the other key's file name
    assert store.load(other) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
        lambda text: json.dumps({**json.loads(text), "service_us": {"1": {"service_us": -1}}}),
        lambda text: json.dumps({**json.loads(text), "service_us": {"x": 1}}),
    ],
    ids=["empty", "cut", "a list", "a newer version", "nonsense", "no estimate"],
)
def test_a_damaged_entry_is_ignored(tmp_path: Path, damage: object) -> None:
    store = ProfileStore(tmp_path)
    store.save(KEY, profile())
    file = tmp_path / KEY.name
    file.write_text(damage(file.read_text()))  # type: ignore[operator]
    assert store.load(KEY) is None


def test_a_directory_that_cannot_be_written_gives_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    store = ProfileStore(tmp_path / "file" / "cache")
    store.save(KEY, profile())
    assert store.load(KEY) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_without_a_directory_nothing_is_stored() -> None:
    store = ProfileStore(None)
    store.save(KEY, profile())
    assert store.load(KEY) is None


@pytest.mark.parametrize("name", ["model.onnx.data", "weights.bin"])
def test_the_hash_covers_the_model_and_its_external_data(tmp_path: Path, name: str) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(models.mlp(), model, save_as_external_data=True, location=name, size_threshold=0)
    before = sha256_of(model)
    (tmp_path / "another.data").write_bytes(b"of another model")
    assert sha256_of(model) == before
    (tmp_path / name).write_bytes(b"weights")
    assert sha256_of(model) != before
