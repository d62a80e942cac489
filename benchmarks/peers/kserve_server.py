"""KServe's Python server with one ONNX Runtime session. Runs in its own environment; arguments: MODEL.onnx NAME PORT."""

import sys
from typing import Any

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # type: ignore[import-not-found]


class Onnx(Model):  # type: ignore[misc]
    """A model as KServe's guide for custom models shows it: decode, run, encode."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        results = self._session.run(self._names, {tensor.name: tensor.as_numpy() for tensor in payload.inputs})
        outputs = []
        for name, array in zip(self._names, results, strict=True):
            output = InferOutput(name, list(array.shape), "FP32")
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        return InferResponse(payload.id or "", self.name, outputs)


if __name__ == "__main__":
    model, name, port = sys.argv[1:]
    server = ModelServer(http_port=0, enable_grpc=True, grpc_port=int(port), workers=1, enable_latency_logging=False)
    server.start([Onnx(name, model)])
