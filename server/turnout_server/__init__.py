"""Turnout's server: ONNX models over gRPC, each request on the device it asks for."""

import os

# ONNX Runtime reports usage over the network since 1.29 and reads these only while it is being imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("ORT_TELEMETRY_DISABLED", "1")
# CUDA counts the fastest GPU first and NVML by slot; so cuda:1 is what nvidia-smi, the doctor and the metrics call 1.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")

# gRPC's event engine reads and writes in threads of its own: a third more CPU for each small call than in the thread that
# polls. gRPC reads this, too, only while it is being imported.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
