import pytest
from turnout_exporter.errors import PublishError
from turnout_exporter.repository import modelconfig
from turnout_exporter.spec.signature import Signature, TensorSpec
from turnout_proto.model_config_pb2 import TYPE_FP32, TYPE_INT64

IDS = TensorSpec("ids", "INT64", ("batch", "seq"))
LOGITS = TensorSpec("logits", "FP32", ("batch", 10), labels=("a", "b"))
SIGNATURE = Signature([IDS], [LOGITS])


def test_dims_leave_out_the_batch_axis_of_a_batched_model() -> None:
    config = modelconfig.describe("words", SIGNATURE, 32)
    assert (config.name, config.platform, config.backend) == ("words", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 32
    assert (config.input[0].name, config.input[0].data_type, list(config.input[0].dims)) == ("ids", TYPE_INT64, [-1])
    assert (config.output[0].data_type, list(config.output[0].dims)) == (TYPE_FP32, [10])


def test_dims_are_complete_for_an_unbatched_model() -> None:
    config = modelconfig.describe("words", SIGNATURE, 0)
    assert [list(config.input[0].dims), list(config.output[0].dims)] == [[-1, -1], [-1, 10]]


def test_only_a_labelled_output_names_the_label_file() -> None:
    bare = Signature([IDS], [TensorSpec("logits", "FP32", ("batch", 10))])
    assert modelconfig.describe("words", SIGNATURE, 32).output[0].label_filename == "labels.txt"
    assert "label_filename" not in modelconfig.to_text(modelconfig.describe("words", bare, 32))


def test_the_text_format_parses_to_the_same_configuration() -> None:
    config = modelconfig.describe("words", SIGNATURE, 32)
    assert modelconfig.from_text(modelconfig.to_text(config)) == config


def test_a_file_that_is_not_a_configuration_is_refused_with_the_line() -> None:
    with pytest.raises(PublishError, match=r"can't be read \(2:1"):
        modelconfig.from_text("name: 'x'\nnonsense: 3")


def test_the_same_signature_is_no_conflict_with_or_without_batching() -> None:
    batched, whole = (modelconfig.describe("words", SIGNATURE, rows) for rows in (32, 0))
    assert modelconfig.conflicts(whole, batched) == []


def test_a_configuration_without_a_signature_fits_every_model() -> None:
    current = modelconfig.from_text("instance_group { kind: KIND_CPU }")
    assert modelconfig.conflicts(current, modelconfig.describe("words", SIGNATURE, 32)) == []


def test_a_different_signature_is_reported_with_both() -> None:
    other = Signature([TensorSpec("ids", "INT32", ("batch", "seq"))], [LOGITS])
    found = modelconfig.conflicts(modelconfig.describe("words", SIGNATURE, 8), modelconfig.describe("words", other, 8))
    assert found == ["inputs are ids INT32[-1, -1] instead of ids INT64[-1, -1]"]


def test_more_rows_than_were_verified_are_a_conflict() -> None:
    current, new = (modelconfig.describe("words", SIGNATURE, rows) for rows in (64, 32))
    assert modelconfig.conflicts(current, new) == ["it was verified with up to 32 rows, not 64"]


def test_merging_keeps_what_the_owner_wrote() -> None:
    current = modelconfig.from_text(
        'max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: 4 }'
        'instance_group { kind: KIND_CPU count: 2 } parameters { key: "turnout.default_device" value { string_value: "cpu" } }'
    )
    merged = modelconfig.merge(current, modelconfig.describe("words", SIGNATURE, 0))
    assert [merged.input[0].name, merged.output[0].name] == ["ids", "logits"]
    assert merged.max_batch_size == 0
    assert merged.instance_group[0].count == 2
    assert merged.parameters["turnout.default_device"].string_value == "cpu"


def test_files_in_other_precisions_are_listed_for_requests_to_choose() -> None:
    config = modelconfig.describe("words", SIGNATURE, 32, ["model.fp16.onnx", "model.int8.onnx"])
    assert config.parameters["turnout.variants"].string_value == "model.fp16.onnx, model.int8.onnx"
    assert modelconfig.unlisted(config, ["model.fp16.onnx"]) == []


def test_files_that_an_older_configuration_does_not_mention_are_found() -> None:
    config = modelconfig.from_text('parameters { key: "turnout.file.cpu" value { string_value: "model.int8.onnx" } }')
    assert modelconfig.unlisted(config, ["model.fp16.onnx", "model.int8.onnx"]) == ["model.fp16.onnx"]
