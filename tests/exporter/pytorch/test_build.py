import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from turnout_exporter.errors import SourceError
from turnout_exporter.jobs import ModelJob
from turnout_exporter.pytorch import build as module
from turnout_exporter.pytorch.build import build, fingerprint, precision, weight_bytes
from turnout_exporter.pytorch.subject import check_same

from tests.exporter import zoo

ZOO = zoo.__file__


@pytest.fixture(autouse=True)
def restored_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    monkeypatch.setattr(torch.backends.mha, "set_fastpath_enabled", lambda _: None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(
        "import torch\nfrom torch import nn\n"
        "def random(width=4):\n    return nn.Linear(width, 2)\n"
        "def trained():\n    return nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()\n"
        "def narrow():\n    return nn.Linear(2, 2).bfloat16()\n"
        "model = nn.Linear(3, 3)\nweights = {'w': 1}\nnumber = 3\n"
    )
    return file


def test_random_weights_are_the_same_in_every_process(file: Path) -> None:
    one = build(ModelJob(f"{file}:random"))
    del sys.modules["_source_own"]  # another process imports it anew, which draws random numbers as well
    other = build(ModelJob(f"{file}:random"))
    assert fingerprint(one.model) == fingerprint(other.model)
    check_same(one, fingerprint(other.model))
    with pytest.raises(SourceError, match="has other weights each time it is made"):
        check_same(one, fingerprint(other.model) + 1)
    assert (one.file, one.notes) == (file, [])


@pytest.mark.parametrize("layer", ["nn.LazyLinear(2)", "nn.Sequential(nn.Linear(2, 3), nn.LazyBatchNorm1d())"])
def test_weights_that_have_no_shape_yet_are_refused_with_the_way_out(tmp_path: Path, layer: str) -> None:
    (tmp_path / "lazy.py").write_text(f"from torch import nn\ndef make():\n    return {layer}\n")
    for weights in (None, str(tmp_path / "weights.pt")):
        with pytest.raises(SourceError, match=r"weights without a shape, .*weight.*\. Let the function .* run it once"):
            build(ModelJob(f"{tmp_path / 'lazy.py'}:make", weights=weights))


def test_a_lazy_model_that_ran_once_in_its_function_is_taken(tmp_path: Path) -> None:
    text = "import torch\nfrom torch import nn\ndef make():\n    model = nn.LazyLinear(2)\n    model(torch.zeros(1, 4))\n"
    (tmp_path / "ran.py").write_text(f"{text}    return model\n")
    assert isinstance(build(ModelJob(f"{tmp_path / 'ran.py'}:make")).model, nn.Linear)


def test_a_model_is_put_into_evaluation_mode(file: Path) -> None:
    assert not any(part.training for part in build(ModelJob(f"{file}:trained")).model.modules())


def test_arguments_reach_the_factory(file: Path) -> None:
    model = build(ModelJob(f"{file}:random", {"width": 7})).model
    assert isinstance(model, nn.Linear)
    assert model.in_features == 7


def test_a_model_may_be_given_itself(file: Path) -> None:
    assert isinstance(build(ModelJob(f"{file}:model")).model, nn.Linear)
    with pytest.raises(SourceError, match="is a model already, so --kwarg width has nothing to go to"):
        build(ModelJob(f"{file}:model", {"width": 7}))


@pytest.mark.parametrize(
    ("source", "kwargs", "complaint"),
    [
        ("random", {"depth": 3}, r"own.py:random\(depth=3\) raised TypeError"),
        ("weights", {}, "is a dict .weights, maybe: they go to --weights.*, not a class, a function or a model"),
        ("number", {}, "is a int, not a class, a function or a model"),
    ],
)
def test_what_makes_no_model_is_one_message(file: Path, source: str, kwargs: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        build(ModelJob(f"{file}:{source}", kwargs))


def test_bfloat16_becomes_float32_with_a_note(file: Path) -> None:
    built = build(ModelJob(f"{file}:narrow"))
    assert precision(built.model) == "fp32"
    assert "bfloat16, which ONNX Runtime's CPU can't run" in built.notes[0]


def test_another_version_of_torch_is_noted(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TESTED_TORCH", "1.0.0")
    (note,) = build(ModelJob(f"{file}:random")).notes
    assert "isn't the version that is tested, 1.0.0" in note


def test_precision_and_size_are_those_of_the_weights() -> None:
    model = nn.Linear(4, 2, bias=False)
    assert (precision(model), weight_bytes(model)) == ("fp32", 32)
    assert (precision(model.half()), precision(model.double())) == ("fp16", "fp64")
    tied = nn.Sequential(model, model)
    assert weight_bytes(tied) == 64


def test_a_program_with_something_else_inside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"m\.pt2 can't be loaded as an exported program"):
        build(ModelJob(str(tmp_path / "m.pt2")))
    with pytest.raises(SourceError, match="has its weights and arguments inside"):
        build(ModelJob(str(tmp_path / "m.pt2"), {"a": 1}))


class Pretrained(nn.Module):
    """Loads like a class of transformers."""

    missing: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.config = SimpleNamespace(use_cache=True)

    @classmethod
    def from_pretrained(cls, folder: str, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
        assert options == {"local_files_only": True, "output_loading_info": True}
        assert (Path(folder) / "config.json").exists()
        return cls(), {"missing_keys": set(cls.missing)}


class WithoutHead(Pretrained):
    missing = ("classifier.weight", "classifier.bias")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake = SimpleNamespace(BertForMaskedLM=Pretrained, AutoModelForSequenceClassification=WithoutHead)
    monkeypatch.setitem(sys.modules, "transformers", fake)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForMaskedLM"]}))
    return tmp_path


def test_a_folder_is_loaded_by_the_class_that_it_names_without_its_cache(folder: Path) -> None:
    built = build(ModelJob(str(folder)))
    assert isinstance(built.model, Pretrained)
    assert not built.model.config.use_cache
    assert built.notes == ["use_cache is off: the keys and values of earlier tokens are neither taken nor returned"]


def test_a_folder_without_weights_for_the_task_is_refused(folder: Path) -> None:
    with pytest.raises(
        SourceError, match=r"no weights for classifier.bias, classifier.weight.*another task \(BertForMaskedLM\)"
    ):
        build(ModelJob(str(folder), task="text-classification"))


def test_a_folder_of_an_unknown_class_is_refused_with_the_option(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"has no class '', which config.json names; choose one with --task"):
        build(ModelJob(str(folder)))


def test_a_folder_needs_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SourceError, match="a folder of transformers, which isn't installed"):
        build(ModelJob(str(folder)))
