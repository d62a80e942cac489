"""Publishes a PyTorch model as ONNX in a model repository, after verifying that ONNX Runtime gives the same outputs.

The parent process never imports torch or onnxruntime: `torch_export` and `verify` run in new child processes.
"""
