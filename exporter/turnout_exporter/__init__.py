"""Publishes a PyTorch model as ONNX in a model repository, once it has been proven to give the same answers.

The parent process never imports torch or onnxruntime: `torch_export` and `verify` run as fresh children of it.
"""
