"""A version on several devices, in several precisions: what a request that asks for one of them gets."""

from collections.abc import Mapping

import pytest
from turnout_server.core.errors import FailedPrecondition, ServingError
from turnout_server.core.model_config import ModelConfiguration
from turnout_server.core.signatures import Signature
from turnout_server.models.deployments import Deployment
from turnout_server.models.model_version import ModelVersion

from tests.server.fakes import AddingSession


def version(
    precisions: Mapping[str, str],
    variants: Mapping[str, ModelVersion] | None = None,
    unavailable: Mapping[str, ServingError] | None = None,
) -> ModelVersion:
    """A model on these devices, by name with the precision of its file there."""
    deployments = {
        device: Deployment(("m", "1", device), AddingSession(), precision=precision) for device, precision in precisions.items()
    }
    signature = Signature((), (), 0)
    return ModelVersion("m", 1, ModelConfiguration("m"), signature, deployments, unavailable or {}, variants or {})


def test_without_a_precision_a_request_gets_what_the_configuration_says() -> None:
    model = version({"cpu": "fp32"}, {"int8": version({"cpu": "int8"})})
    assert model.in_precision("") is model


def test_a_precision_that_every_device_has_changes_nothing() -> None:
    model = version({"cpu": "fp32", "cuda:0": "fp32"})
    assert model.in_precision("fp32") is model


def test_a_precision_chooses_among_the_files_of_a_device() -> None:
    small = version({"cpu": "int8"})
    model = version({"cpu": "fp32"}, {"int8": small})
    chosen = model.in_precision("int8")
    assert chosen.deployments == small.deployments
    assert chosen is model.in_precision("int8")  # plans and the last routes are kept with it
    assert [each.precision for each in model.on("cpu")] == ["fp32", "int8"]


def test_a_device_whose_own_file_has_the_precision_answers_with_that() -> None:
    model = version({"cpu": "fp32", "cuda:0": "fp16"}, {"fp16": version({"cpu": "fp16"})})
    chosen = model.in_precision("fp16")
    assert list(chosen.deployments) == ["cpu", "cuda:0"]
    assert chosen.deployments["cuda:0"] is model.deployments["cuda:0"]


def test_a_device_without_the_precision_says_what_there_is() -> None:
    model = version({"cpu": "fp32", "cuda:0": "fp16"})
    assert str(model.in_precision("fp16").unavailable["cpu"]) == (
        "model 'm' has no fp16 file for device 'cpu': there is fp32 on 'cpu'; fp16 on 'cuda:0' "
        "(turnout.variants in config.pbtxt lists others)"
    )


def test_a_file_that_failed_on_a_device_says_why() -> None:
    failed = version({"cpu": "int8"}, unavailable={"npu": FailedPrecondition("its operators aren't known there")})
    model = version({"cpu": "fp32", "npu": "fp32"}, {"int8": failed})
    chosen = model.in_precision("int8")
    assert (list(chosen.deployments), str(chosen.unavailable["npu"])) == (["cpu"], "its operators aren't known there")


def test_a_precision_that_no_device_has_is_refused_with_what_there_is() -> None:
    model = version({"cpu": "fp32"}, {"int8": version({"cpu": "int8"})})
    with pytest.raises(FailedPrecondition, match="has no banana file: there is fp32, int8 on 'cpu'"):
        model.in_precision("banana")
