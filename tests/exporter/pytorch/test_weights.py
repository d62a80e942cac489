from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from turnout_exporter.errors import SourceError
from turnout_exporter.pytorch.weights import load_into


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def refusal(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        load_into(model(), path)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_state_dict_is_loaded_completely(tmp_path: Path, suffix: str) -> None:
    saved, loaded, path = model().state_dict(), model(), tmp_path / f"weights{suffix}"
    save_file(saved, path) if suffix == ".safetensors" else torch.save(saved, path)
    load_into(loaded, path)
    assert all(torch.equal(value, saved[key]) for key, value in loaded.state_dict().items())


def test_missing_unexpected_and_misshapen_keys_are_all_named(tmp_path: Path) -> None:
    state = model().state_dict()
    del state["0.bias"], state["1.bias"]
    save_file(state | {"head.bias": torch.zeros(2), "0.weight": torch.zeros(5, 3)}, tmp_path / "w.safetensors")
    message = refusal(tmp_path / "w.safetensors")
    assert "missing: 0.bias, 1.bias;" in message
    assert "unexpected: head.bias;" in message
    assert "of another shape: 0.weight is [5, 3] instead of [4, 3]" in message


def test_many_keys_are_counted_instead_of_listed(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in model().state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    message = refusal(tmp_path / "w.safetensors")
    assert "missing: 0.weight, 0.bias, 1.weight, 1.bias, 1.running_mean and 2 more" in message


def test_a_pickled_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save(model(), tmp_path / "model.pt")
    message = refusal(tmp_path / "model.pt")
    assert "a pickle may run any code" in message
    assert "torch.save(model.state_dict(), file)" in message


def test_a_checkpoint_around_the_state_dict_is_described(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": model().state_dict()}, tmp_path / "checkpoint.pt")
    assert "holds a dict with epoch, state_dict, not a state dict" in refusal(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_file_with_other_content_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights")
    assert f"{name} can't be read" in refusal(tmp_path / name)
