"""The client of the server under test: open loads, closed loads, and waiting for a device."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
from turnout_loadtests.client import LOCAL
from turnout_loadtests.open_loop import Outcome, Source, send_poisson
from turnout_loadtests.payloads import infer_request
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from benchmarks.cases import Case
from benchmarks.contestants import START_TIMEOUT_S

#: The deadlines of requests in a closed load, and of one that asks whether a device answers.
CLOSED_TIMEOUT_S, PROBE_TIMEOUT_S = 60.0, 5.0


class Client:
    """A client of the server on a port, for one case."""

    def __init__(self, port: int, case: Case) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", LOCAL)
        self._stub = Stub(self._channel)
        self._case = case

    def close(self) -> None:
        self._channel.close()

    def poisson(self, rates: Mapping[str, float], seconds: float, target_s: float, seed: int) -> list[Outcome]:
        """Sends an open load, by device the requests per second that name it; `target_s` is each request's deadline."""
        sources = [Source(device, [self._request(device)], rate) for device, rate in rates.items()]
        return send_poisson(self._stub, sources, seconds, target_s, seed)

    def capacity(self, devices: tuple[str, ...], seconds: float, in_flight: int = 2) -> dict[str, float]:
        """Answers per second of each device, with `in_flight` requests in flight on every one of them."""
        until_s = time.monotonic() + seconds

        def loop(device: str) -> int:
            request, count = self._request(device), 0
            while time.monotonic() < until_s:
                self._stub.ModelInfer(request, timeout=CLOSED_TIMEOUT_S)
                count += 1
            return count

        with ThreadPoolExecutor(in_flight * len(devices)) as pool:
            counts = {device: [pool.submit(loop, device) for _ in range(in_flight)] for device in devices}
            return {device: sum(each.result() for each in futures) / seconds for device, futures in counts.items()}

    def wait_for(self, device: str) -> None:
        """Returns once the device answers."""
        until_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._stub.ModelInfer(self._request(device), timeout=PROBE_TIMEOUT_S)
                return
            except grpc.RpcError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.1)

    def _request(self, device: str) -> pb.ModelInferRequest:
        return infer_request(self._case.name, self._case.tensors(), device)
