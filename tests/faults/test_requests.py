"""Tests that invalid requests are refused with the right status and text, and that the server continues to serve."""

import socket
from collections.abc import Iterator

import grpc
import numpy as np
import psutil
import pytest
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS

from tests.servers import RunningServer
from tests.wire import CONTENTS, DTYPES, arrays, pack, refused, request

INFER = METHODS["ModelInfer"].path
ROW = np.arange(16, dtype=np.float32)[None]
ADD_SUB = {"INPUT0": ROW, "INPUT1": ROW}


@pytest.fixture(autouse=True)
def server_survives(server: RunningServer) -> Iterator[None]:
    """After each test, the server must answer a valid request."""
    yield
    answer = server.stub.ModelInfer(request("add_sub", ADD_SUB), timeout=10)
    np.testing.assert_array_equal(arrays(answer)["OUTPUT0"], ROW + ROW)


def call_raw(server: RunningServer, path: str, message: bytes) -> bytes:
    """Sends raw bytes and returns the response's raw bytes."""
    answer: bytes = server.channel.unary_unary(path, bytes, bytes)(message, timeout=10)
    return answer


# The message itself


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\xff\xff\xff\xff", id="not protobuf"),
        pytest.param(b"\x0a\x7fshort", id="truncated field"),
        pytest.param(b"\x0a\x02\xff\xfe", id="not UTF-8"),
        pytest.param(b"\xfb\x3f" * 200, id="nested groups"),
    ],
)
@pytest.mark.parametrize("rpc", ["ModelInfer", "ModelMetadata", "ModelReady"])
def test_1_2_3_4_a_malformed_message_is_an_invalid_argument(server: RunningServer, rpc: str, message: bytes) -> None:
    with refused("INVALID_ARGUMENT", f"not a valid {rpc}Request"):
        call_raw(server, METHODS[rpc].path, message)


def test_5_unknown_fields_are_ignored(server: RunningServer) -> None:
    unknown = b"\xba\x3e\x03abc"  # field 999
    wrong_wire_type = b"\x18\x05"  # the id as a number
    message = request("add_sub", ADD_SUB).SerializeToString() + unknown + wrong_wire_type
    assert pb.ModelInferResponse.FromString(call_raw(server, INFER, message)).model_name == "add_sub"


def test_6_an_empty_message_is_refused_with_the_missing_field(server: RunningServer) -> None:
    with refused("INVALID_ARGUMENT", "model_name"):
        server.stub.ModelInfer(pb.ModelInferRequest())


@pytest.mark.parametrize("path", ["/inference.GRPCInferenceService/Guess", "/other.Service/ModelInfer"])
def test_7_an_unknown_method_is_unimplemented(server: RunningServer, path: str) -> None:
    with refused("UNIMPLEMENTED"):
        call_raw(server, path, b"")


def test_15_a_long_name_does_not_hide_the_status(server: RunningServer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.ModelInfer(request("m" * 100_000, ADD_SUB))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(caught.value.details() or "") <= 1024


def test_112_control_characters_in_a_name_are_escaped(server: RunningServer) -> None:
    with refused("NOT_FOUND", r"'a\nb\x1b[31m\x00'"):
        server.stub.ModelInfer(request("a\nb\x1b[31m\0", ADD_SUB))


def test_14_metadata_beyond_grpcs_limit_is_refused(server: RunningServer) -> None:
    with refused("RESOURCE_EXHAUSTED"):
        server.stub.ServerLive(pb.ServerLiveRequest(), metadata=[("colour", "x" * 70_000)])


@pytest.mark.parametrize(
    "first_bytes",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", id="HTTP/1.1"),
        pytest.param(bytes.fromhex("16030100c8010000c40303") + bytes(200), id="TLS"),
        pytest.param(bytes(range(256)) * 4, id="noise"),
    ],
)
def test_16_a_connection_with_another_protocol_is_closed(server: RunningServer, first_bytes: bytes) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(first_bytes)
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass


# Inputs and outputs


def test_24_an_unknown_input_is_refused_with_the_missing_one(server: RunningServer) -> None:
    with refused("INVALID_ARGUMENT", "missing required input(s) ['INPUT1']", "INPUT2"):
        server.stub.ModelInfer(request("add_sub", {"INPUT0": ROW, "INPUT2": ROW}))


def test_25_a_missing_input_is_refused_by_name(server: RunningServer) -> None:
    text = (
        "expected 2 inputs but got 1 inputs for model 'add_sub'. Got input(s) ['INPUT0'], "
        "but missing required input(s) ['INPUT1']. Please provide all required input(s)."
    )
    with refused("INVALID_ARGUMENT", text):
        server.stub.ModelInfer(request("add_sub", {"INPUT0": ROW}))


def test_25_an_extra_input_is_refused_by_name(server: RunningServer) -> None:
    with refused("INVALID_ARGUMENT", "unexpected inference input 'EXTRA' for model 'add_sub'"):
        server.stub.ModelInfer(request("add_sub", {**ADD_SUB, "EXTRA": ROW}))


def test_26_a_repeated_input_is_refused(server: RunningServer) -> None:
    message = request("add_sub", ADD_SUB)
    message.inputs[1].name = "INPUT0"
    with refused("INVALID_ARGUMENT", "input 'INPUT0' already exists in request"):
        server.stub.ModelInfer(message)


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (["OUTPUT2"], "unexpected inference output 'OUTPUT2' for model 'add_sub'"),
        (["OUTPUT0", "OUTPUT0"], "output 'OUTPUT0' already exists in request"),
        ([f"OUTPUT{number}" for number in range(5000)], ""),
    ],
    ids=["unknown", "twice", "thousands"],
)
def test_27_28_unknown_and_repeated_outputs_are_refused(server: RunningServer, outputs: list[str], text: str) -> None:
    with refused("INVALID_ARGUMENT", text):
        server.stub.ModelInfer(request("add_sub", ADD_SUB, outputs=outputs))


def test_the_error_contains_the_request_id(server: RunningServer) -> None:
    with refused("INVALID_ARGUMENT", "[request id: r7] "):
        server.stub.ModelInfer(request("add_sub", {"INPUT0": ROW}, id="r7"))


@pytest.mark.parametrize("sent", sorted(DTYPES))
def test_29_a_datatype_other_than_the_models_is_refused(server: RunningServer, sent: str) -> None:
    wanted = "INT64" if sent == "FP32" else "FP32"
    array = np.full((1, 1), b"" if sent == "BYTES" else 0, DTYPES[sent])
    with refused("INVALID_ARGUMENT", f"data-type is '{sent}', but model '{wanted.lower()}_batch' expects '{wanted}'"):
        server.stub.ModelInfer(request(f"{wanted.lower()}_batch", {"INPUT": array}))


@pytest.mark.parametrize("datatype", ["XX", "", "fp32", "TYPE_FP32"])
def test_29_an_unknown_datatype_is_refused(server: RunningServer, datatype: str) -> None:
    message = request("fp32_batch", {"INPUT": ROW})
    message.inputs[0].datatype = datatype
    with refused("INVALID_ARGUMENT", f"'{datatype}'", "FP32"):
        server.stub.ModelInfer(message)


@pytest.mark.parametrize("shape", [(16,), (1, 15), (1, 1, 16)], ids=str)
def test_30_a_wrong_shape_is_refused_with_both_shapes(server: RunningServer, shape: tuple[int, ...]) -> None:
    got = ",".join(map(str, shape))
    text = f"unexpected shape for input 'INPUT0' for model 'add_sub'. Expected [-1,16], got [{got}]. "
    with refused("INVALID_ARGUMENT", text):
        server.stub.ModelInfer(request("add_sub", {"INPUT0": np.zeros(shape, np.float32), "INPUT1": ROW}))


def test_30_a_scalar_for_a_batched_model_is_refused(server: RunningServer) -> None:
    with refused("INVALID_ARGUMENT", "input 'INPUT' has no shape but model requires batch dimension for 'fp32_batch'"):
        server.stub.ModelInfer(request("fp32_batch", {"INPUT": np.array(5, np.float32)}))


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param([-1, 16], id="negative"),
        pytest.param([2**32, 2**32], id="product beyond 64 bits"),
        pytest.param([2**63 - 1, 1], id="largest dimension"),
        pytest.param([0, 2**62, 2**62], id="product of 0 and huge dimensions"),
        pytest.param([1] * 10**6, id="a million dimensions"),
        pytest.param([1] * 17, id="seventeen dimensions"),
    ],
)
@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_31_32_34_an_impossible_shape_is_refused(server: RunningServer, datatype: str, typed: bool, shape: list[int]) -> None:
    array = np.zeros((0,), np.float32) if datatype == "FP32" else np.empty((0,), np.object_)
    message = request(f"{datatype.lower()}_plain", {"INPUT": array}, typed=typed)
    message.inputs[0].shape[:] = shape
    with refused("INVALID_ARGUMENT", "INPUT"):
        server.stub.ModelInfer(message)


@pytest.mark.parametrize("length", [0, 63, 65, 128])
def test_35_raw_data_of_a_wrong_length_is_refused_with_both_lengths(server: RunningServer, length: int) -> None:
    message = request("add_sub", ADD_SUB)
    message.raw_input_contents[0] = bytes(length)
    with refused("INVALID_ARGUMENT", "byte size mismatch", "'INPUT0'", "Expected 64", f"got {length}"):
        server.stub.ModelInfer(message)


def test_36_an_input_without_data_is_refused(server: RunningServer) -> None:
    message = request("add_sub", ADD_SUB)
    del message.raw_input_contents[1]
    with refused("INVALID_ARGUMENT", "unable to find data for input tensor 'INPUT1' for model 'add_sub' in request."):
        server.stub.ModelInfer(message)


def test_36_data_without_an_input_is_refused(server: RunningServer) -> None:
    message = request("add_sub", ADD_SUB)
    message.raw_input_contents.append(b"")
    with refused("INVALID_ARGUMENT", "3 raw_input_contents"):
        server.stub.ModelInfer(message)


@pytest.mark.parametrize("values", [16, 0], ids=["filled", "empty"])
def test_37_raw_and_typed_contents_cannot_be_mixed(server: RunningServer, values: int) -> None:
    message = request("add_sub", ADD_SUB)
    message.inputs[1].contents.SetInParent()
    message.inputs[1].contents.fp32_contents.extend([0.0] * values)
    text = "contents field must not be specified when using raw_input_contents for 'INPUT1' for model 'add_sub'"
    with refused("INVALID_ARGUMENT", text):
        server.stub.ModelInfer(message)


@pytest.mark.parametrize(
    ("datatype", "field"),
    [(name, field) for name in DTYPES for field in sorted(set(CONTENTS.values())) if field != CONTENTS.get(name)],
)
def test_38_values_in_the_field_of_another_datatype_are_refused(server: RunningServer, datatype: str, field: str) -> None:
    message = pb.ModelInferRequest(model_name=f"{datatype.lower()}_batch")
    tensor = message.inputs.add(name="INPUT", datatype=datatype, shape=[1, 1])
    getattr(tensor.contents, field).append(b"" if field == "bytes_contents" else 0)
    with refused("INVALID_ARGUMENT", datatype):
        server.stub.ModelInfer(message)


@pytest.mark.parametrize(
    ("datatype", "value"), [("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("UINT8", 256), ("UINT16", 2**16)]
)
def test_39_a_typed_number_out_of_range_is_never_truncated(server: RunningServer, datatype: str, value: int) -> None:
    message = pb.ModelInferRequest(model_name=f"{datatype.lower()}_batch")
    tensor = message.inputs.add(name="INPUT", datatype=datatype, shape=[1, 1])
    getattr(tensor.contents, CONTENTS[datatype]).append(value)
    with refused("INVALID_ARGUMENT", f"out of the range of {datatype}"):
        server.stub.ModelInfer(message)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(b"\x05\0\0\0abc", "", id="length beyond the end"),
        pytest.param(b"\xff\xff\xff\xffabc", "", id="largest length"),
        pytest.param(
            b"\x03\0\0\0abc\x01\0", "incomplete string length indicator for inference input 'INPUT'", id="truncated length"
        ),
        pytest.param(b"\x01\0\0\0a" * 2, "unexpected number of string elements 2 for inference input 'INPUT'", id="too many"),
        pytest.param(b"", "unexpected number of string elements 0 for inference input 'INPUT'", id="too few"),
        pytest.param(b"\x02\0\0\0\xff\xfe", "not UTF-8", id="not UTF-8"),
    ],
)
def test_40_41_42_malformed_strings_are_refused(server: RunningServer, data: bytes, text: str) -> None:
    message = request("bytes_batch", {"INPUT": np.full((1, 1), b"", np.object_)})
    message.raw_input_contents[0] = data
    with refused("INVALID_ARGUMENT", text, "INPUT"):
        server.stub.ModelInfer(message)


def test_45_raw_data_may_have_any_alignment(server: RunningServer) -> None:
    for padding in range(8):  # the length of the id changes the alignment of the tensors
        answer = server.stub.ModelInfer(request("add_sub", ADD_SUB, id="x" * padding))
        np.testing.assert_array_equal(arrays(answer)["OUTPUT0"], ROW + ROW)


def test_46_more_rows_than_the_maximum_are_refused(server: RunningServer) -> None:
    with refused("INVALID_ARGUMENT", "inference request batch-size must be <= 8 for 'fp32_batch'"):
        server.stub.ModelInfer(request("fp32_batch", {"INPUT": np.zeros((9, 1), np.float32)}))


def test_inputs_with_different_numbers_of_rows_are_refused(server: RunningServer) -> None:
    with refused("INVALID_ARGUMENT", "batch size does not match other inputs for 'add_sub'"):
        server.stub.ModelInfer(request("add_sub", {"INPUT0": ROW, "INPUT1": np.concatenate([ROW, ROW])}))


# Parameters, models, versions


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("device", 1, "string_param"),
        ("device", True, "string_param"),
        ("timeout", "1", "int64_param"),
        ("timeout", True, "int64_param"),
    ],
)
def test_50_a_parameter_of_a_wrong_type_is_refused(server: RunningServer, key: str, value: str | int, expected: str) -> None:
    with refused("INVALID_ARGUMENT", f"invalid value type for '{key}' parameter, expected {expected}"):
        server.stub.ModelInfer(request("add_sub", ADD_SUB, parameters={key: value}))


@pytest.mark.parametrize("name", ["nowhere", "../zoo", "add_sub/1", ".", "ADD_SUB", " add_sub"])
def test_59_an_unknown_model_is_not_found(server: RunningServer, name: str) -> None:
    with refused("NOT_FOUND", f"Request for unknown model: '{name}' is not found"):
        server.stub.ModelInfer(request(name, ADD_SUB))
    with refused("NOT_FOUND", "Request for unknown model"):
        server.stub.ModelMetadata(pb.ModelMetadataRequest(name=name))
    assert not server.stub.ModelReady(pb.ModelReadyRequest(name=name)).ready


@pytest.mark.parametrize(
    ("version", "code", "text"),
    [
        ("9", "NOT_FOUND", "version 9 is not found"),
        ("one", "INVALID_ARGUMENT", "failed to get model version from specified version string 'one'"),
        ("1.0", "INVALID_ARGUMENT", "version should be an integral value > 0"),
        ("-2", "INVALID_ARGUMENT", "invalid model version specified '-2' , version should be an integral value > 0"),
        ("0", "INVALID_ARGUMENT", "version should be an integral value > 0"),
        ("1" * 5000, "INVALID_ARGUMENT", ""),
        (" 1", "INVALID_ARGUMENT", "failed to get model version from specified version string ' 1'"),
        ("\u0663", "INVALID_ARGUMENT", "version should be an integral value > 0"),
        ("1_0", "INVALID_ARGUMENT", "version should be an integral value > 0"),
        ("+1", "INVALID_ARGUMENT", "version should be an integral value > 0"),
    ],
    ids=["absent", "word", "decimal", "negative", "zero", "5000 digits", "space", "Arabic digit", "underscore", "plus"],
)
def test_59_an_invalid_or_unknown_version_is_refused(server: RunningServer, version: str, code: str, text: str) -> None:
    with refused(code, text):
        server.stub.ModelInfer(request("versions", {"x": ROW}, version=version))


def test_62_requests_for_a_broken_model_are_refused_with_the_reason(server: RunningServer) -> None:
    with refused("FAILED_PRECONDITION", "'broken' could not be loaded"):
        server.stub.ModelInfer(request("broken", {"x": ROW}))
    with refused("FAILED_PRECONDITION", "there is no version to serve"):
        server.stub.ModelInfer(request("empty", {"x": ROW}))
    assert not server.stub.ModelReady(pb.ModelReadyRequest(name="broken")).ready


def test_a_model_whose_outputs_are_not_utf8_is_not_ready(server: RunningServer) -> None:
    assert not server.stub.ModelReady(pb.ModelReadyRequest(name="not_utf8")).ready
    with refused("FAILED_PRECONDITION", "a text that is not UTF-8"):
        server.stub.ModelInfer(request("not_utf8", {"x": np.zeros(1, np.float32)}))


def test_a_broken_version_does_not_affect_the_other_one(server: RunningServer) -> None:
    assert server.stub.ModelInfer(request("half_broken", {"x": ROW})).model_version == "1"
    with refused("FAILED_PRECONDITION", "version 2"):
        server.stub.ModelInfer(request("half_broken", {"x": ROW}, version="2"))


def test_the_index_and_the_log_contain_the_reason_for_a_broken_model(server: RunningServer) -> None:
    index = {(m.name, m.version): m for m in server.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}
    assert index["add_sub", "1"].state == "READY"
    assert (index["broken", "1"].state, index["half_broken", "2"].state) == ("UNAVAILABLE", "UNAVAILABLE")
    assert index["broken", "1"].reason
    assert "model.onnx" in index["broken", "1"].reason
    assert "/" not in index["broken", "1"].reason
    server.process.wait_for(r"ERROR .*model broken")
    ready = server.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
    assert {model.state for model in ready} == {"READY"}


# Failures while the model runs


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        pytest.param("gather", {"x": np.array([4])}, id="an index out of range"),
        pytest.param("divide", {"a": np.array([1], np.int32), "b": np.array([0], np.int32)}, id="a divisor of 0"),
        pytest.param("fill", {"shape": np.array([-1, 3])}, id="a negative size"),
        pytest.param("fill", {"shape": np.array([2**40, 2**40])}, id="a size beyond 64 bits"),
        pytest.param("reshape", {"x": np.zeros(4, np.float32), "shape": np.array([-3, 3])}, id="a negative dimension"),
        pytest.param("reshape", {"x": np.zeros(4, np.float32), "shape": np.array([3, 3])}, id="another size"),
    ],
)
def test_an_input_that_the_model_refuses_is_an_invalid_argument(
    server: RunningServer, model: str, inputs: dict[str, np.ndarray]
) -> None:
    errors = server.process.log.count(" ERROR ")
    with refused("INVALID_ARGUMENT", "the model refused these inputs"):
        server.stub.ModelInfer(request(model, inputs))
    assert server.process.log.count(" ERROR ") == errors


def test_110_a_failure_in_the_runtime_shows_clients_only_an_id_from_the_log(server: RunningServer) -> None:
    inputs = {"x": np.zeros(4, np.float32), "start": np.array([0]), "end": np.array([1, 2])}
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.ModelInfer(request("slice", inputs))
    assert isinstance(caught.value, grpc.Call)
    details = caught.value.details() or ""
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    prefix = "internal error; the server's log has the cause under id "
    assert details.startswith(prefix)
    server.process.wait_for(f"(?s)Slice.*{details.removeprefix(prefix)}")


# Floods


def memory_of(server: RunningServer) -> int:
    """The server's resident memory in bytes."""
    resident: int = psutil.Process(server.process.pid).memory_info().rss
    return resident


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(b"\x2a\x00" * 2**21, id="inputs"),
        pytest.param(b"\x32\x00" * 2**21, id="outputs"),
        pytest.param(b"\x3a\x00" * 2**21, id="raw contents"),
        pytest.param(b"".join(b"\x22\x06\x0a\x04%04x" % n for n in range(2**16)) * 8, id="parameters"),
        pytest.param(b"\x2a\x80\x80\x80\x02" + b"\x22\x00" * 2**21, id="parameters of an input"),
        pytest.param(b"\x2a\x85\x80\x80\x02\x1a\x80\x80\x80\x02" + b"\x01" * 2**22, id="dimensions"),
        pytest.param(b"\x2a\x80\x80\x80\x02" + b"\x18\x01" * 2**21, id="unpacked dimensions"),
    ],
)
def test_12_13_34_millions_of_fields_on_any_level_are_refused_and_take_no_memory(server: RunningServer, fields: bytes) -> None:
    before = memory_of(server)
    with refused("INVALID_ARGUMENT"):
        call_raw(server, INFER, b"\x0a\x07add_sub" + fields)
    assert memory_of(server) - before < 32 << 20  # the message itself exists twice for a moment


def test_8_an_rpc_that_is_declared_but_not_offered_names_no_class(server: RunningServer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.CudaSharedMemoryRegister(pb.CudaSharedMemoryRegisterRequest(name="r"))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "class" not in (caught.value.details() or "")


@pytest.mark.parametrize("rpc", sorted(set(METHODS) - {"ModelInfer", "ModelStreamInfer"}))
def test_13_a_large_message_of_another_rpc_is_refused(server: RunningServer, rpc: str) -> None:
    with refused("INVALID_ARGUMENT", f"{METHODS[rpc].path.rsplit('/')[-1]}Request may have 262144 bytes"):
        call_raw(server, METHODS[rpc].path, b"\x7a\x00" * 2**20)


def test_33_a_request_of_no_rows_gets_an_answer_of_no_rows(server: RunningServer) -> None:
    empty = np.zeros((0, 16), np.float32)
    answer = server.stub.ModelInfer(request("add_sub", {"INPUT0": empty, "INPUT1": empty}))
    assert arrays(answer)["OUTPUT0"].shape == (0, 16)


def test_43_a_text_may_contain_nul(server: RunningServer) -> None:
    text = np.array([[b"a\0b\0"]], np.object_)
    assert arrays(server.stub.ModelInfer(request("bytes_batch", {"INPUT": text})))["OUTPUT"].tolist() == [[b"a\0b\0"]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_44_nan_and_infinity_pass_and_leave_other_rows_alone(server: RunningServer, value: float) -> None:
    rows = np.concatenate([np.full_like(ROW, value), ROW])
    got = arrays(server.stub.ModelInfer(request("add_sub", {"INPUT0": rows, "INPUT1": rows})))["OUTPUT0"]
    np.testing.assert_array_equal(got, rows + rows)


def test_47_a_request_that_fails_does_not_fail_those_in_its_batch(server: RunningServer) -> None:
    good, bad = (request("gather", {"x": np.array([index])}) for index in (2, 9))
    calls = [server.stub.ModelInfer.future(bad if number % 5 == 0 else good, timeout=20) for number in range(50)]
    for number, call in enumerate(calls):
        if number % 5 == 0:
            with refused("INVALID_ARGUMENT"):
                call.result()
        else:
            assert arrays(call.result())["y"].tolist() == [30]


def test_50_unknown_parameters_are_ignored_whatever_their_type(server: RunningServer) -> None:
    unknown: dict[str, str | int | bool | float] = {"colour": "red", "size": 1, "new": True, "share": 0.5}
    assert server.stub.ModelInfer(request("add_sub", ADD_SUB, parameters=unknown)).model_name == "add_sub"


def test_28_one_repeated_output_among_many_is_refused_at_once(server: RunningServer) -> None:
    names = [str(number) for number in range(4_000)]
    with refused("INVALID_ARGUMENT"):
        server.stub.ModelInfer(request("add_sub", ADD_SUB, outputs=[*names, names[-1]]), timeout=5)


def test_a_large_declared_shape_takes_no_memory(server: RunningServer) -> None:
    before = memory_of(server)
    message = request("bytes_plain", {"INPUT": np.full((1, 1), b"", np.object_)})
    message.inputs[0].shape[:] = [2**31, 2**31]
    message.raw_input_contents[0] = pack(np.full(1, b"a", np.object_))
    with refused("INVALID_ARGUMENT"):
        server.stub.ModelInfer(message)
    assert memory_of(server) - before < 16 * 2**20
