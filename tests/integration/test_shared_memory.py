"""Tests of shared memory over the wire, with clients that misuse it."""

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from turnout_proto import inference_pb2 as pb

from tests.integration.test_infer import sample
from tests.servers import RunningServer, running
from tests.wire import DTYPES, arrays, assert_same, pack, refused, request, unpack

SIZE = 4096


@pytest.fixture
def sharing(zoo: Path, transport: str) -> Iterator[RunningServer]:
    with running(zoo, "--allow-client-shm", transport=transport) as server:
        yield server


@pytest.fixture
def path() -> Iterator[Path]:
    path = Path("/dev/shm") / f"turnout-test-{uuid.uuid4().hex}"
    path.write_bytes(bytes(SIZE))
    yield path
    path.unlink(missing_ok=True)


def register(server: RunningServer, path: Path, byte_size: int = SIZE, offset: int = 0) -> None:
    message = pb.SystemSharedMemoryRegisterRequest(name="region", key=f"/{path.name}", offset=offset, byte_size=byte_size)
    server.stub.SystemSharedMemoryRegister(message)


def shared_request(
    region: str, model: str, array: np.ndarray, datatype: str, byte_size: int, output_offset: int
) -> pb.ModelInferRequest:
    """A request whose input is at the region's start, and whose output is written at `output_offset`."""
    message = pb.ModelInferRequest(model_name=model)
    tensor = message.inputs.add(name="INPUT", datatype=datatype, shape=array.shape)
    output = message.outputs.add(name="OUTPUT")
    for parameters, offset, size in (
        (tensor.parameters, 0, byte_size),
        (output.parameters, output_offset, SIZE - output_offset),
    ):
        parameters["shared_memory_region"].string_param = region
        parameters["shared_memory_byte_size"].int64_param = size
        parameters["shared_memory_offset"].int64_param = offset
    return message


def test_every_datatype_is_bit_exact_through_shared_memory(sharing: RunningServer, path: Path) -> None:
    register(sharing, path)
    for datatype in DTYPES:
        array = sample(datatype, (2, 3))
        data = pack(array)
        path.write_bytes(data.ljust(SIZE, b"\0"))
        answer = sharing.stub.ModelInfer(
            shared_request("region", f"{datatype.lower()}_batch", array, datatype, len(data), SIZE // 2)
        )
        (output,) = answer.outputs
        assert list(answer.raw_output_contents) == [b""]
        size = output.parameters["shared_memory_byte_size"].int64_param
        assert_same(unpack(path.read_bytes()[SIZE // 2 :][:size], datatype, output.shape), array)


def test_80_a_region_truncated_while_in_use_does_not_harm_the_server(sharing: RunningServer, path: Path) -> None:
    register(sharing, path)
    array = np.zeros((1, 256), np.float32)
    stop = threading.Event()

    def truncate() -> None:
        while not stop.is_set():
            os.truncate(path, 0)
            os.truncate(path, SIZE)

    truncating = threading.Thread(target=truncate)
    truncating.start()
    try:
        for _ in range(300):
            try:
                sharing.stub.ModelInfer(shared_request("region", "fp32_batch", array, "FP32", 1024, 2048))
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017
    finally:
        stop.set()
        truncating.join()
    answer = sharing.stub.ModelInfer(request("fp32_batch", {"INPUT": array}))
    assert_same(arrays(answer)["OUTPUT"], array)


def test_85_unregistering_under_traffic_fails_requests_only_as_not_found(sharing: RunningServer, path: Path) -> None:
    array = np.zeros((1, 256), np.float32)
    codes = set()
    for _ in range(50):
        register(sharing, path)
        calls = [
            sharing.stub.ModelInfer.future(shared_request("region", "fp32_batch", array, "FP32", 1024, 2048), timeout=20)
            for _ in range(4)
        ]
        sharing.stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="region"))
        codes |= {call.code().name for call in calls}
    assert codes <= {"OK", "NOT_FOUND"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_86_the_server_does_not_unlink_clients_memory(zoo: Path, transport: str, path: Path, number: signal.Signals) -> None:
    with running(zoo, "--allow-client-shm", transport=transport) as server:
        register(server, path)
        server.process.signal(number)
        server.process.wait()
    assert path.stat().st_size == SIZE


def test_79_ranges_outside_the_region_are_refused(sharing: RunningServer, path: Path) -> None:
    for offset, size in [(32, 2**64 - 32), (2**64 - 1, 2), (0, SIZE + 1), (SIZE, 1), (0, 0)]:
        with refused("INVALID_ARGUMENT", "is not within the object's"):
            register(sharing, path, size, offset)
    register(sharing, path)
    for offset, size in [(SIZE, 1), (1, SIZE), (2**63 - 1, 2**63 - 1), (-1, 4), (0, -4)]:
        message = shared_request("region", "fp32_batch", np.zeros((1, 1), np.float32), "FP32", size, 0)
        message.inputs[0].parameters["shared_memory_offset"].int64_param = offset
        with refused("INVALID_ARGUMENT"):
            sharing.stub.ModelInfer(message)
    message = shared_request("region", "fp32_batch", np.zeros((1, 1), np.float32), "FP32", 4, 0)
    del message.inputs[0].parameters["shared_memory_byte_size"]
    with refused("INVALID_ARGUMENT", "'shared_memory_byte_size' must be specified along with 'shared_memory_region'"):
        sharing.stub.ModelInfer(message)
    with refused("ALREADY_EXISTS", "'region' already in manager"):
        register(sharing, path)


def test_without_the_flag_shared_memory_is_refused_with_the_flags_name(server: RunningServer, path: Path) -> None:
    text = "Client shared memory is disabled. Start the server with '--allow-client-shm' to enable."
    with refused("UNIMPLEMENTED", text):
        register(server, path)
    with refused("UNIMPLEMENTED", text):
        server.stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())
    with refused("UNIMPLEMENTED", text):
        server.stub.ModelInfer(shared_request("region", "fp32_batch", np.zeros((1, 1), np.float32), "FP32", 4, 64))
    server.stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest())
    extensions = server.stub.ServerMetadata(pb.ServerMetadataRequest()).extensions
    assert "system_shared_memory" not in extensions
