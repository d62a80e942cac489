import warnings

import pytest
import torch
from torch import nn
from turnout_exporter.errors import SourceError
from turnout_exporter.pytorch.unwrap import unwrap

# torch.compile imports parts of torch that use deprecated ones.
compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@compiles
def test_data_parallel_and_compile_are_removed_in_any_order() -> None:
    model = nn.Linear(2, 2)
    found, notes = unwrap(torch.compile(nn.DataParallel(model)), "zoo:build")
    assert found is model
    assert notes == [
        "exported without torch.compile, which changes no result",
        "exported without DataParallel, which changes no result",
    ]


def test_wrappers_around_parts_are_removed_as_well() -> None:
    part = nn.Linear(2, 2)
    found, notes = unwrap(nn.Sequential(nn.DataParallel(part), nn.ReLU()), "zoo:build")
    assert isinstance(found, nn.Sequential)
    assert found[0] is part
    assert len(notes) == 1


@compiles
def test_a_model_that_was_compiled_in_place_runs_without_it() -> None:
    model = nn.Linear(2, 2)
    model.compile()
    found, notes = unwrap(model, "zoo:build")
    assert found is model
    assert notes == ["exported without torch.compile, which changes no result"]
    assert model._compiled_call_impl is None


def test_a_plain_model_needs_no_note() -> None:
    model = nn.Linear(2, 2)
    assert unwrap(model, "zoo:build") == (model, [])


def test_torchscript_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))  # type: ignore[no-untyped-call]
    with pytest.raises(SourceError, match="zoo:build is TorchScript, which can't be exported"):
        unwrap(scripted, "zoo:build")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("model", "a str"),
        ({"w": 1}, "a dict .weights, maybe"),
        ((nn.Identity(), 3), "a tuple of Identity, int"),
        (None, "a NoneType"),
    ],
)
def test_what_is_no_model_is_named(answer: object, kind: str) -> None:
    with pytest.raises(SourceError, match=f"zoo:build made {kind}.*let it return the model"):
        unwrap(answer, "zoo:build")
