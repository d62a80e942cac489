"""`python -m benchmarks.conformance`: serves ONNX's node tests, and counts the answers that are right on a device.

The tests come with the onnx package (onnx/backend/test/case/node). An answer is compared with that of ONNX Runtime's CPU
provider in this process; tests that it doesn't run, that draw random numbers, or that have sequences or optional values, are
left out.
"""

import argparse
import json
import struct
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from onnx.backend.test.case.node import collect_testcases
from turnout_loadtests.client import UNLIMITED
from turnout_loadtests.payloads import DTYPES, infer_request
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub
from turnout_server.models.verification import relative_error

from benchmarks.engines.mixes import serving

#: Models that one server has at a time.
AT_ONCE = 100
#: Runs of the reference that must agree; some random operators give the same twice.
RUNS = 4
#: How often a device that is restarting is asked.
TRIES, PAUSE_S = 20, 0.5
EQUAL, NEAR, OFF, WRONG = "equal to the bit", "within 1e-5", "within 1e-2", "WRONG"


@dataclass(frozen=True)
class Case:
    """A node test with the outputs of the CPU provider."""

    name: str
    model: bytes
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformance", description=__doc__)
    parser.add_argument("--device", action="append", help="what requests ask for; several are counted each (auto)")
    parser.add_argument("--only", default="", help="only tests with this in their names")
    parser.add_argument("--output", type=Path, help="a file for the outcome of each test, as JSON")
    chosen = parser.parse_args()
    devices = chosen.device or ["auto"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some tests are made by computing with overflows
        tests = [test for test in collect_testcases(None) if chosen.only in test.name]
    cases = [case for test in tests if (case := _case(test)) is not None]
    print(f"{len(cases)} of {len(tests)} tests have tensors only, and run on the CPU provider")
    outcomes: dict[str, dict[str, str]] = {device: {} for device in devices}
    for at in range(0, len(cases), AT_ONCE):
        for device, name, outcome in _served(cases[at : at + AT_ONCE], devices):
            outcomes[device][name] = outcome
        print(f"{min(at + AT_ONCE, len(cases))} of {len(cases)}", flush=True)
    for device, found in outcomes.items():
        counts = Counter(outcome.split(":")[0] for outcome in found.values())
        print(device, len(found), dict(counts))
        for name, outcome in found.items():
            if outcome.startswith(WRONG):
                print("  ", name, outcome)
    if chosen.output:
        chosen.output.write_text(json.dumps(outcomes, indent=1) + "\n")


def _case(test: Any) -> Case | None:
    """A test; None if the CPU provider doesn't run it, answers at random, or it has values other than tensors."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    model = test.model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        if not all(each.type.startswith("tensor(") for each in (*session.get_inputs(), *session.get_outputs())):
            return None
        inputs = dict(zip([each.name for each in session.get_inputs()], map(np.asarray, test.data_sets[0][0]), strict=True))
        outputs = [each.name for each in session.get_outputs()]
        runs = [dict(zip(outputs, session.run(outputs, inputs), strict=True)) for _ in range(RUNS)]
        same = all(relative_error(run[name], want) == 0 for run in runs for name, want in runs[0].items())
        return Case(test.name, model, inputs, runs[0]) if same else None
    except Exception:  # whatever it is, the reference has no answer
        return None


def _served(cases: list[Case], devices: list[str]) -> Iterator[tuple[str, str, str]]:
    """The outcome of each test on each device."""
    with tempfile.TemporaryDirectory() as directory:
        for case in cases:
            version = Path(directory) / case.name / "1"
            version.mkdir(parents=True)
            (version / "model.onnx").write_bytes(case.model)
            (version.parent / "config.pbtxt").write_text("max_batch_size: 0\n")
        with serving(Path(directory)) as port, grpc.insecure_channel(f"127.0.0.1:{port}", UNLIMITED) as channel:
            stub = Stub(channel)
            for case in cases:
                for device in devices:
                    yield device, case.name, _outcome(stub, case, device)


def _outcome(stub: Stub, case: Case, device: str) -> str:
    try:
        request = infer_request(case.name, {name: _sendable(array) for name, array in case.inputs.items()}, device)
    except KeyError as missing:
        return f"not sent: no datatype of the protocol for {missing}"
    answer = None
    for _ in range(TRIES):
        try:
            answer = stub.ModelInfer(request, timeout=60)
            break
        except grpc.RpcError as failure:
            refusal = f"refused {failure.code().name}: {failure.details()}"
            if failure.code() is not grpc.StatusCode.UNAVAILABLE:
                break
            time.sleep(PAUSE_S)  # a device that was lost comes back
    if answer is None:
        return refusal
    found = _outputs(answer)
    wrong = [
        f"{name} is {found[name].dtype} {found[name].shape}"
        for name, want in case.outputs.items()
        if found[name].shape != want.shape
    ]
    if wrong:
        return f"{WRONG}: {wrong}"
    error = max((relative_error(found[name], want) for name, want in case.outputs.items()), default=0.0)
    if error == 0:
        return EQUAL
    return NEAR if error <= 1e-5 else OFF if error <= 1e-2 else f"{WRONG}: {error}"


def _sendable(array: np.ndarray) -> np.ndarray:
    """Text as the bytes that are sent."""
    if array.dtype.kind not in "OU":
        return array
    return np.array([str(text).encode() for text in array.ravel()], object).reshape(array.shape)


def _outputs(answer: pb.ModelInferResponse) -> dict[str, np.ndarray]:
    """The outputs by name, text as ONNX Runtime gives it."""
    texts = {tensor.name for tensor in answer.outputs if tensor.datatype == "BYTES"}
    found = {}
    for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if tensor.name in texts:
            found[tensor.name] = np.array(_texts(raw), object).reshape(tuple(tensor.shape))
        else:
            found[tensor.name] = np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
    return found


def _texts(raw: bytes) -> list[str]:
    found, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return found


if __name__ == "__main__":
    main()
