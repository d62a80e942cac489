"""Turnout's server: ONNX models over gRPC, each request on the device it asks for."""

import os

# ONNX Runtime reports usage over the network since 1.29 and reads these only while it is being imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("ORT_TELEMETRY_DISABLED", "1")
# By default CUDA numbers GPUs by speed and NVML by PCI slot. With this, cuda:1 is GPU 1 of nvidia-smi, doctor and metrics.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")

# gRPC's event engine does its I/O in threads of its own, which costs a third more CPU per small call than I/O in the polling
# thread. gRPC also reads this variable only while it is being imported.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
