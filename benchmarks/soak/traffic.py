"""What clients do to a server for so long, in a process of their own: `python -m benchmarks.soak.traffic KIND ADDRESS SECONDS`.

Each kind is a client that some server meets: one that asks for anything, one that waits too short, one that changes its mind,
one that makes mistakes, one that dies in the middle of its requests.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import grpc
import numpy as np
from turnout_proto import inference_pb2 as pb
from turnout_proto.methods import Stub

from tests.wire import request

RANDOM = random.Random(15)
#: Requests that one client has open when it dies.
OPEN_AT_DEATH = 8
#: Between two things that a client does; the generator is to have the cores.
PAUSE_S = 0.02


def any_request() -> pb.ModelInferRequest:
    """A request for any of the models, of any size."""
    name = RANDOM.choice(["adds", "adds", "copy", "texts", "counts"])
    if name == "texts":
        return request(name, {"INPUT": np.array([b"x" * RANDOM.randrange(100) for _ in range(RANDOM.randint(1, 20))], object)})
    if name == "counts":
        return request(name, {"n": np.array(RANDOM.randrange(2000))})
    columns = RANDOM.choice([1, 16, 4096]) if name == "copy" else RANDOM.choice([1, 16])
    rows = np.ones((RANDOM.randint(1, 8), columns), np.float32)
    return request(name, {"INPUT" if name == "copy" else "x": rows}, id=str(RANDOM.random()))


def anything(stub: Stub) -> None:
    """Asks for anything, by a unary call or a stream."""
    if RANDOM.random() < 0.1:
        list(stub.ModelStreamInfer(iter([any_request() for _ in range(20)]), timeout=30))
    else:
        stub.ModelInfer(any_request(), timeout=30)


def too_short(stub: Stub) -> None:
    """Waits for a long run, and gives up before it ends."""
    message = request("counts", {"n": np.array(RANDOM.randrange(20_000))})
    stub.ModelInfer(message, timeout=RANDOM.uniform(0.001, 0.02))


def changes_its_mind(stub: Stub) -> None:
    """Cancels some of its calls."""
    calls = [stub.ModelInfer.future(any_request(), timeout=30) for _ in range(8)]
    for call in calls:
        if RANDOM.random() < 0.5:
            call.cancel()
    for call in calls:
        with suppress(grpc.RpcError, grpc.FutureCancelledError):
            call.result()


def mistakes(stub: Stub) -> None:
    """Asks for what there isn't, in ways that are wrong."""
    wrong = any_request()
    change = RANDOM.randrange(4)
    if change == 0:
        wrong.model_name = f"nonesuch{RANDOM.random()}"
    elif change == 1:
        wrong.inputs[0].datatype = "FP77"
    elif change == 2:
        wrong.raw_input_contents[0] = wrong.raw_input_contents[0][:-1]
    else:
        wrong.parameters["device"].string_param = f"gpu{RANDOM.randrange(100)}"
    stub.ModelInfer(wrong, timeout=30)


def dies(stub: Stub) -> None:
    """Ends, with its requests and a stream open."""
    stub.ModelStreamInfer(iter([any_request() for _ in range(OPEN_AT_DEATH)]), timeout=30)
    calls = [stub.ModelInfer.future(any_request(), timeout=30) for _ in range(OPEN_AT_DEATH)]
    time.sleep(RANDOM.uniform(0, 0.02))
    os._exit(0 if calls else 1)


#: `dies once` is what `dies` starts.
KINDS: dict[str, Callable[[Stub], None]] = {
    "anything": anything,
    "too short": too_short,
    "changes its mind": changes_its_mind,
    "mistakes": mistakes,
    "dies": dies,
    "dies once": dies,
}


def main() -> None:
    """Runs one client until its time is up."""
    kind, address, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    RANDOM.seed(os.getpid())
    until_s = time.monotonic() + seconds
    while kind == "dies" and time.monotonic() < until_s:  # again and again, each time in a process of its own
        subprocess.run([sys.executable, "-m", "benchmarks.soak.traffic", "dies once", address, "30"], check=False)
    with grpc.insecure_channel(address) as channel:
        stub = Stub(channel)
        while time.monotonic() < until_s:
            with suppress(grpc.RpcError):
                KINDS[kind](stub)
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
