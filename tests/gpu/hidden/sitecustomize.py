"""Python imports this first where PYTHONPATH leads here: ONNX Runtime then doesn't find the CUDA libraries of wheels."""

import onnxruntime

onnxruntime.preload_dlls = lambda *arguments, **keywords: None
