import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from turnout_exporter.errors import SourceError
from turnout_exporter.pytorch.weights import WeightsFile


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def refusal(path: Path, key: str = "", strip_prefix: str = "") -> str:
    with pytest.raises(SourceError) as caught:
        WeightsFile(path, key, strip_prefix).load_into(model())
    return str(caught.value)


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in model().state_dict().items()}


@pytest.fixture
def pt(tmp_path: Path) -> Path:
    return tmp_path / "w.pt"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_state_dict_is_loaded_completely(tmp_path: Path, suffix: str) -> None:
    saved, loaded, path = model().state_dict(), model(), tmp_path / f"weights{suffix}"
    save_file(saved, path) if suffix == ".safetensors" else torch.save(saved, path)
    assert WeightsFile(path).load_into(loaded) == []
    assert all(torch.equal(value, saved[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("content", "key", "prefix"),
    [
        ({"state_dict": prefixed("")}, "state_dict", ""),
        ({"model": {"ema": prefixed("")}}, "model.ema", ""),
        ({"epoch": 3, "state_dict": prefixed("module.")}, "state_dict", "module."),
        (prefixed("_orig_mod."), "", "_orig_mod."),
        ({"a.b": prefixed("model.net.")}, "a.b", "model.net."),
    ],
)
def test_a_checkpoint_is_loaded_with_its_key_and_without_its_prefix(pt: Path, content: object, key: str, prefix: str) -> None:
    torch.save(content, pt)
    assert WeightsFile(pt, key, prefix).load_into(model()) == []


def test_missing_unexpected_and_misshapen_keys_are_all_named(tmp_path: Path) -> None:
    state = model().state_dict()
    del state["0.bias"], state["1.bias"]
    save_file(state | {"head.bias": torch.zeros(2), "0.weight": torch.zeros(5, 3)}, tmp_path / "w.safetensors")
    message = refusal(tmp_path / "w.safetensors")
    assert "missing: 0.bias, 1.bias;" in message
    assert "unexpected: head.bias;" in message
    assert "of another shape: 0.weight is [5, 3] instead of [4, 3]" in message


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.net."])
def test_where_every_key_differs_by_one_prefix_the_option_is_printed(pt: Path, prefix: str) -> None:
    torch.save(prefixed(prefix), pt)
    message = refusal(pt)
    assert message.endswith(f"Its keys differ by a prefix only: add --strip-prefix {prefix}")
    assert "0.weight, 0.bias, 1.weight, 1.bias, 1.running_mean and 1 more" in message


def test_a_prefix_that_the_model_has_and_the_file_has_not_is_said(pt: Path) -> None:
    torch.save({key.removeprefix("0."): value for key, value in model().state_dict().items() if key.startswith("0.")}, pt)
    with pytest.raises(SourceError, match=r"The model's keys have the prefix '0\.', which these lack"):
        WeightsFile(pt).load_into(nn.Sequential(nn.Linear(3, 4)))


def test_weights_beside_the_prefix_are_left_out_and_named(pt: Path) -> None:
    torch.save(prefixed("student.") | {"teacher.0.weight": torch.zeros(1)}, pt)
    assert WeightsFile(pt, "", "student.").load_into(model()) == [
        "weights without the prefix 'student.' are left out: teacher.0.weight"
    ]


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        ({"epoch": 3, "state_dict": prefixed("")}, "epoch, state_dict, not a state dict: add --weights-key state_dict"),
        ({"ema": prefixed(""), "model": prefixed("")}, "add --weights-key model"),
        ([1, 2], "a list, not a state dict; save model.state_dict() alone"),
    ],
)
def test_a_checkpoint_around_the_weights_is_described_with_the_option(pt: Path, content: object, advice: str) -> None:
    torch.save(content, pt)
    assert advice in refusal(pt)


def test_a_key_that_is_not_there_is_answered_with_the_keys(pt: Path) -> None:
    torch.save({"state_dict": prefixed("")}, pt)
    assert "has no 'model'; it holds a dict with state_dict" in refusal(pt, key="model")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (model(), "torch.nn.modules.container.Sequential"),
        ({"args": argparse.Namespace(lr=1), "w": torch.zeros(1)}, "argparse.Namespace"),
    ],
)
def test_a_pickle_is_refused_and_what_it_needs_is_named_without_advice_to_unpickle_it(
    pt: Path, content: object, named: str
) -> None:
    torch.save(content, pt)
    message = refusal(pt)
    assert "unpickling that may run any code, so it is refused" in message
    assert named in message
    assert "torch.save(model.state_dict(), file)" in message
    assert "weights_only" not in message


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize(("content", "complaint"), [(b"not weights", "w"), (b"", "is empty"), (b"\x80\x04garbage", "w")])
def test_a_file_with_other_content_is_one_short_message(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert message.startswith(str(tmp_path / name))
    assert complaint in message
    assert "weights_only" not in message
    assert "\n" not in message


def test_a_file_with_no_weights_in_it_is_refused(pt: Path) -> None:
    torch.save({}, pt)
    assert "holds no weights at all" in refusal(pt)


def test_another_precision_is_said(pt: Path) -> None:
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in model().state_dict().items()}, pt)
    assert WeightsFile(pt).load_into(model()) == ["w.pt has float16 weights, and the model float32 ones: they were converted"]


def test_weights_that_are_not_numbers_are_named(pt: Path) -> None:
    torch.save(model().state_dict() | {"0.bias": torch.tensor([1.0, float("nan"), 0.0, 0.0])}, pt)
    assert WeightsFile(pt).load_into(model()) == ["weights that are infinite or not a number: 0.bias"]


def test_a_tied_weight_may_be_in_the_file_only_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    weight, tied = torch.randn(5, 3), Tied()
    save_file({"embedding.weight": weight}, tmp_path / "w.safetensors")
    WeightsFile(tmp_path / "w.safetensors").load_into(tied)
    assert torch.equal(tied.head.weight, weight)


class Halved(nn.Module):
    """Version 2 stores its weight twice as large as version 1 did, and halves what version 1 stored when it is loaded."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        if (local_metadata.get("version") or 1) < 2:
            state_dict[f"{prefix}w"] = state_dict[f"{prefix}w"] / 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@pytest.mark.parametrize(
    ("wrap", "key", "prefix"),
    [
        (lambda module: module, "", ""),
        (nn.DataParallel, "", "module."),
        (lambda module: nn.ModuleDict({"net": nn.ModuleDict({"inner": module})}), "ema.weights", "net.inner."),
    ],
)
@pytest.mark.parametrize(("version", "loaded"), [(2, 4.0), (1, 2.0)])
def test_modules_see_the_version_that_wrote_the_file(
    pt: Path, wrap: Any, key: str, prefix: str, version: int, loaded: float
) -> None:
    layer = Halved()
    layer.w.data.fill_(4)
    saved = nn.Sequential(nn.Identity(), layer)
    state: Any = wrap(saved).state_dict()
    state._metadata[f"{prefix}1"]["version"] = version
    torch.save({"ema": {"weights": state}} if key else state, pt)
    fresh = Halved()
    WeightsFile(pt, key, prefix).load_into(nn.Sequential(nn.Identity(), fresh))
    assert fresh.w.tolist() == [loaded] * 3


def test_a_batchnorm_of_an_older_torch_fits(pt: Path) -> None:
    saved = model()
    state = OrderedDict((key, value) for key, value in saved.state_dict().items() if "tracked" not in key)
    torch.save({f"module.{key}": value for key, value in state.items()}, pt)
    assert WeightsFile(pt, "", "module.").load_into(model()) == []


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_a_weight_norm_of_the_older_kind_fits_the_newer_one(pt: Path) -> None:
    older = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)))
    torch.save(older.state_dict(), pt)
    newer = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)))
    assert WeightsFile(pt).load_into(newer) == []
    assert torch.allclose(newer(torch.ones(1, 3)), older(torch.ones(1, 3)))


def test_a_module_that_cannot_load_the_file_is_quoted(pt: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, pt)
    with pytest.raises(SourceError, match="doesn't fit the model: KeyError: 'w'"):
        WeightsFile(pt).load_into(Halved())
