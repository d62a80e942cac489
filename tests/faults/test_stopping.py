"""SIGTERM, whatever the server is doing (rows 93 to 98 and 100 of the fault table)."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import psutil
import pytest
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import METHODS, Stub

from tests import models
from tests.faulty import freeze, until
from tests.http2 import Connection
from tests.servers import TRANSPORTS, Process, RunningServer, running
from tests.wire import refused, request

X = {"x": np.zeros((1, 1), np.float32)}
ENDLESS = {"n": np.array(2**62)}
SERVICE_CONFIG = Path(__file__).parents[2] / "deploy" / "balancers" / "service-config.json"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models.save(tmp_path, "adds", models.add_constant(1))
    models.save(tmp_path, "slow", models.countdown())
    models.save(tmp_path, "fill", models.fill())
    return tmp_path


def test_93_a_stop_under_load_fails_no_call_of_a_client_with_the_shipped_service_config(
    repository: Path, transport: str
) -> None:
    """Two servers behind one client, of which one is stopped: each call is answered by either."""
    with running(repository, "--drain-delay-s=0.5", transport=transport) as first, running(repository) as second:
        addresses = ",".join(server.address for server in (first, second))
        options = [("grpc.service_config", SERVICE_CONFIG.read_text()), ("grpc.enable_retries", 1)]
        seen: Counter[str] = Counter()
        stopping = threading.Event()
        with grpc.insecure_channel(f"ipv4:{addresses}", options) as channel:
            stub = Stub(channel)

            def ask() -> None:
                while not stopping.is_set():
                    try:
                        stub.ModelInfer(request("adds", X), timeout=10)
                        seen["OK"] += 1
                    except grpc.RpcError as error:
                        seen[cast(grpc.Call, error).code().name] += 1

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            until(lambda: seen["OK"] > 200)
            first.process.signal(signal.SIGTERM)
            assert first.process.wait() == 0
            after = seen["OK"]
            until(lambda: seen["OK"] > after + 200)
            stopping.set()
            for thread in threads:
                thread.join()
        assert set(seen) == {"OK"}, seen


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("number_one", [False, True], ids=["a child", "process 1"])
def test_93_a_signal_early_in_the_start_ends_it_at_once(repository: Path, delay_s: float, number_one: bool) -> None:
    """From when it is caught, which is the first thing that the server does: before, the kernel drops what process 1 gets."""
    code = "from turnout_server.entry import main; main()"
    command = [sys.executable, "-c", code, "serve", f"--model-repository={repository}", "--grpc-port=0", "--metrics-port=0"]
    if number_one:
        if os.geteuid() or not shutil.which("unshare"):
            pytest.skip("only root can make a process number 1 with unshare")
        command = ["unshare", "--pid", "--fork", "--kill-child", *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        until(lambda: not number_one or bool(_children_of(process.pid)))
        target = _children_of(process.pid)[0] if number_one else process.pid
        until(lambda: _catches(target, signal.SIGTERM))
        time.sleep(delay_s)
        started_s = time.monotonic()
        os.kill(target, signal.SIGTERM)
        assert process.wait(5) == 0
        assert time.monotonic() - started_s < 2
    finally:
        process.kill()
        process.communicate()


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal: a bit for each, from 1 on."""
    (caught,) = (line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_95_a_stop_is_not_held_up_by_a_run_that_never_ends(repository: Path, transport: str) -> None:
    with running(repository, "--drain-timeout-s=1", transport=transport) as server:
        endless = server.stub.ModelInfer.future(request("slow", ENDLESS))
        server.stub.ServerLive(pb.ServerLiveRequest())
        time.sleep(0.3)
        started_s = time.monotonic()
        server.process.signal(signal.SIGTERM)
        assert server.process.wait(timeout_s=15) in (0, 1)
        assert endless.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        print(f"row 95, {transport}: ended after {time.monotonic() - started_s:.1f} s")


def test_95_a_stop_is_not_held_up_by_a_load_that_never_ends(repository: Path, transport: str) -> None:
    flags = ["--model-control-mode=explicit", "--load-model=adds", "--drain-timeout-s=1"]
    with running(repository, *flags, transport=transport) as server:
        warm_up = (
            '{"model_warmup": [{"name": "w", "batch_size": 1, "inputs": {"n": {"data_type": "TYPE_INT64", "dims": [], %s}}}]}'
        )
        message = pb.RepositoryModelLoadRequest(model_name="slow")
        _endless_file(repository / "slow" / "warmup" / "n")
        message.parameters["config"].string_param = warm_up % '"input_data_file": "n"'
        loading = server.stub.RepositoryModelLoad.future(message)
        until(lambda: "LOADING" in {m.state for m in server.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models})
        started_s = time.monotonic()
        server.process.signal(signal.SIGTERM)
        assert server.process.wait(timeout_s=20) in (0, 1)
        assert loading.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        print(f"row 95, {transport}: ended {time.monotonic() - started_s:.1f} s after the signal, with a load in progress")


def _endless_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(ENDLESS["n"].astype(np.int64).tobytes())


def test_95_a_stop_is_not_held_up_by_a_client_that_does_not_read(repository: Path, transport: str) -> None:
    with running(repository, "--drain-timeout-s=30", transport=transport) as server:
        connection = Connection(server.address, window=0)
        connection.call(METHODS["ModelInfer"].path, request("fill", {"shape": np.array([1024, 1024])}).SerializeToString())
        time.sleep(0.5)
        started_s = time.monotonic()
        server.process.signal(signal.SIGTERM)
        assert server.process.wait(timeout_s=15) == 0
        took_s = time.monotonic() - started_s
        connection.close()
    print(f"row 95, {transport}: ended {took_s:.1f} s after the signal, with an answer that nobody took")
    assert took_s < 8


def test_97_a_stopped_server_is_noticed_and_goes_on_when_it_may(repository: Path, transport: str) -> None:
    with running(repository, transport=transport) as server:
        freeze(psutil.Process(server.process.pid))
        with refused("DEADLINE_EXCEEDED"):
            server.stub.ModelInfer(request("adds", X), timeout=0.5)
        server.process.signal(signal.SIGCONT)
        server.stub.ModelInfer(request("adds", X), timeout=10)


def test_100_while_models_load_unknown_ones_are_unavailable_and_not_found_only_once_settled(
    repository: Path, transport: str
) -> None:
    for number in range(30):
        models.save(repository, f"more{number}", models.add_constant(number))
    ports = ["--grpc-port=0", "--metrics-port=0"]
    process = Process(f"--model-repository={repository}", *ports, *TRANSPORTS[transport])
    try:
        server = RunningServer(process)
        with server.channel:
            seen: list[str] = []
            while not seen or seen[-1] == "UNAVAILABLE":
                with pytest.raises(grpc.RpcError) as caught:
                    server.stub.ModelInfer(request("unknown", X), timeout=10)
                seen.append(cast(grpc.Call, caught.value).code().name)
            assert seen[0] == "UNAVAILABLE"
            assert seen[-1] == "NOT_FOUND"
            assert server.stub.ServerReady(pb.ServerReadyRequest()).ready
    finally:
        process.end()
