import pytest
from turnout_proto import inference_pb2 as pb
from turnout_proto import model_config_pb2
from turnout_proto.methods import METHODS, Stub


class FakeChannel:
    """Connects every method to its own path and kind."""

    def unary_unary(self, path: str, serialize: object, deserialize: object) -> tuple[str, str]:
        return "unary", path

    def stream_stream(self, path: str, serialize: object, deserialize: object) -> tuple[str, str]:
        return "stream", path


@pytest.mark.parametrize("name", METHODS)
def test_the_stub_has_a_call_for_each_method(name: str) -> None:
    kind = "stream" if name == "ModelStreamInfer" else "unary"
    stub = Stub(FakeChannel())  # type: ignore[arg-type]
    assert getattr(stub, name) == (kind, f"/inference.GRPCInferenceService/{name}")


def test_a_method_knows_its_message_classes() -> None:
    assert METHODS["ModelInfer"].request is pb.ModelInferRequest
    assert METHODS["ModelStreamInfer"].response is pb.ModelStreamInferResponse


def test_enums_have_their_values_as_names() -> None:
    assert model_config_pb2.TYPE_BF16 == model_config_pb2.DataType.Value("TYPE_BF16") == 14
