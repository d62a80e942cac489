"""OpenVINO, as Intel's plug-in for ONNX Runtime brings it (the package onnxruntime-ep-openvino).

The plug-in takes its options as one JSON text, `load_config`, with OpenVINO's own names by hardware (https://docs.openvino.ai,
"CPU Device"); the names that ONNX Runtime's older provider had are ignored. It offers hardware by Intel only: on other CPUs the
device is missing, with that reason.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from turnout_server.core.signatures import TensorSpec
from turnout_server.devices import onnx_graph
from turnout_server.devices.device import PROVIDERS, Device
from turnout_server.devices.hazards import sizes_from_values
from turnout_server.devices.host import usable_cpus

PACKAGE = "onnxruntime-ep-openvino"
MODULE = "onnxruntime_ep_openvino"
OPTION = "load_config"
_LIBRARY = "libonnxruntime_providers_openvino_plugin.so"
#: Operators that give other results for some values; see `doubt`.
_OTHERWISE = {
    "BitShift": "may shift by a negative number, or by as many bits as there are",
    "NonMaxSuppression": "may have boxes that overlap by exactly its threshold",
}


def library() -> str:
    """The plug-in's file; empty if the package isn't installed."""
    spec = find_spec(MODULE)
    found = [Path(place) / _LIBRARY for place in (spec.submodule_search_locations or [])] if spec else []
    return next((str(file) for file in found if file.exists()), "")


def openvino(plugin: str) -> Device:
    """The device that there is where the plug-in is installed and nothing declared.

    It has a process of its own: a crash in it costs nobody else, and the way there is short beside what it runs.
    """
    return Device(
        "openvino", "openvino", PROVIDERS["openvino"], library=plugin, hardware="cpu", threads=usable_cpus(), isolated=True
    )


def is_plugin(device: Device) -> bool:
    """Whether a device runs on the plug-in."""
    return device.provider == PROVIDERS["openvino"] and bool(device.library)


def configured(device: Device, cache_dir: Path | None) -> Device:
    """The device with its options in OpenVINO's words; as it is if it has some already, or isn't OpenVINO's.

    Runs keep the precision of the file: left to itself, OpenVINO computes float32 in bfloat16 where the CPU can, with 3.4e-3 of
    the largest value off for ResNet-50 instead of 7e-7.

    Args:
        cache_dir: where compiled models are kept for the next start; None for nowhere.
    """
    if not is_plugin(device) or OPTION in device.provider_options:
        return device
    hardware = device.hardware or "cpu"
    options = {"EXECUTION_MODE_HINT": "ACCURACY"}
    if hardware == "cpu" and (threads := device.threads or len(device.cpus)):
        options["INFERENCE_NUM_THREADS"] = str(threads)
    if cache_dir is not None:
        options["CACHE_DIR"] = str(cache_dir / "openvino")
    return replace(device, provider_options={**device.provider_options, OPTION: json.dumps({hardware.upper(): options})})


def refusal(device: Device, tensors: Iterable[TensorSpec]) -> str | None:
    """Why a model with these inputs and outputs can't run on the plug-in; None if it may.

    It frees the memory of texts twice: an Identity of a text ended the process with `munmap_chunk(): invalid pointer`. And it
    computes FP64 as FP32, which isn't what the file says.
    """
    if not is_plugin(device):
        return None
    for spec in tensors:
        if spec.datatype.name == "BYTES":
            return f"'{spec.name}' is text, which crashes the plug-in of {device.provider}; it runs on the CPU"
        if spec.datatype.name == "FP64":
            return f"'{spec.name}' is FP64, which {device.provider} computes as FP32; it runs on the CPU"
    return None


def doubt(device: Device, file: Path) -> str | None:
    """Why made-up inputs can't show that the plug-in computes what an ONNX file says; None if nothing is known against it.

    They have harmless values, with which these operators are right. In ONNX's node tests version 1.8.1 shifted bits otherwise
    where a shift is negative or as large as the integer, selected another box where two overlap by exactly the threshold,
    resized otherwise with antialiasing or a policy for the aspect ratio, and gave another shape where sizes or repeats are
    values of the request.
    """
    if not is_plugin(device):
        return None
    if sizes := sizes_from_values(file):
        return sizes[0]
    return next((doubt for node in _nodes(file) if (doubt := _doubt(node))), None)


def reduces(device: Device, file: Path) -> bool:
    """Whether a model may reduce an empty tensor on the plug-in, whose result is another one than ONNX Runtime's."""
    return is_plugin(device) and any(node.operator.startswith("Reduce") for node in _nodes(file))


def _nodes(file: Path) -> Iterator[onnx_graph.Node]:
    """The nodes of an ONNX file, those of its functions included; none if it can't be read."""
    try:
        model = onnx_graph.read(file)
    except (onnx_graph.NotOnnx, OSError):
        return
    for graph in (model.graph, *model.functions.values()):
        yield from onnx_graph.nodes_of(graph)


def _doubt(node: onnx_graph.Node) -> str | None:
    who = f"{node.operator} '{node.name or ', '.join(node.outputs)}'"
    if node.operator in _OTHERWISE:
        return f"{who} {_OTHERWISE[node.operator]}"
    if node.operator == "Resize" and (node.number("antialias") or "keep_aspect_ratio_policy" in node.attributes):
        return f"{who} has antialiasing or a policy for the aspect ratio"
    return None


def narrowed(device: Device, inputs: Iterable[TensorSpec]) -> tuple[str, ...]:
    """The inputs of 64-bit integers of which the plug-in uses the lower 32 bits."""
    if not is_plugin(device):
        return ()
    return tuple(spec.name for spec in inputs if spec.datatype.name in ("INT64", "UINT64"))


def beyond_32_bits(array: np.ndarray) -> int | None:
    """A value of an array of integers that doesn't fit into 32 bits; None if all do."""
    if not array.size:
        return None
    extremes = int(array.min()), int(array.max())
    return next((value for value in extremes if not -(2**31) <= value < 2**31), None)


def with_threads(provider_options: dict[str, str], threads: int) -> dict[str, str]:
    """The options with another number of threads, for a model whose configuration has one."""
    loaded = json.loads(provider_options[OPTION])
    if "CPU" not in loaded:
        return provider_options
    changed = {**loaded, "CPU": {**loaded["CPU"], "INFERENCE_NUM_THREADS": str(threads)}}
    return {**provider_options, OPTION: json.dumps(changed)}
