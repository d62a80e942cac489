import onnx
import pytest
from turnout_server.devices import device as devices
from turnout_server.devices import probe
from turnout_server.devices.sessions import OnnxSession


def test_the_test_model_is_valid_and_has_a_convolution() -> None:
    model = onnx.load_from_string(probe.PROBE_MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert {"Conv", "MatMul"} <= {node.op_type for node in model.graph.node}


def test_a_cpu_works() -> None:
    assert probe.unavailable_reason(devices.cpu()) is None


def test_a_device_that_computes_something_else_says_what(monkeypatch: pytest.MonkeyPatch) -> None:
    real = OnnxSession.run
    monkeypatch.setattr(OnnxSession, "run", lambda *arguments: [array * 2 for array in real(*arguments)])
    assert probe.unavailable_reason(devices.cpu()) == "a test run gave [[-42.0, -54.0]] where [[-21, -27]] is right"
