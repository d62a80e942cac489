"""Fuzzes the decoder, a server over the wire on each transport, and repositories: nothing may crash, hang, or end as UNKNOWN.

    python -m benchmarks.fuzz [--minutes 10] [--seed 1]

Messages are structured mutations of valid requests: bytes flipped, fields repeated, removed, truncated, moved, given another
length, number or wire type, and numbers replaced by those at the edges. The decoder gets most of them, because it is a hundred
times as fast; the server gets the others, beside a client whose requests must be answered. Repositories have models and
configurations that are mutated alike; each of them must load or fail with a reason, and a good model beside them must answer.
"""

import argparse
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
from turnout_proto import inference_pb2 as pb
from turnout_server.core.errors import ServingError
from turnout_server.wire import codec
from turnout_server.wire.codec import Codec
from turnout_server.wire.fields import varint

from benchmarks.bystander.http2 import INFER
from tests import models
from tests.servers import TRANSPORTS, running
from tests.wire import request

#: One case may take so long on a busy machine; longer counts as a hang.
HANG_S = 20.0
#: The statuses that a wrong request may get. INTERNAL isn't one: it would be the server's fault.
ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
#: Models that one repository has.
MUTANTS = 200
#: Configurations with what a config.pbtxt may have.
CONFIGURATIONS = (
    """max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 1000000 max_queue_size: 10 }
}
""",
    """max_batch_size: 4
version_policy { latest { num_versions: 2 } }
instance_group [ { count: 2 kind: KIND_CPU rate_limiter { priority: 2 } } ]
model_warmup [ {
  name: "a"
  batch_size: 2
  count: 3
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4 ] random_data: true } }
} ]
optimization { execution_accelerators { } graph { level: 1 } }
""",
    """max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape { shape: [ 2, 2 ] } } ]
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
parameters { key: "turnout.latency_target_us" value { string_value: "20000" } }
parameters { key: "turnout.variants" value { string_value: "model.int8.onnx" } }
parameters { key: "turnout.tolerance" value { string_value: "0.01" } }
""",
)
#: Numbers at which lengths, shapes and counts go wrong.
EDGES = (0, 1, 2, 15, 16, 17, 127, 128, 255, 4096, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)


def seeds() -> list[bytes]:
    """Valid requests of all kinds: raw and typed, small and large, with parameters and requested outputs."""
    row = np.arange(16, dtype=np.float32)[None]
    text = np.array([[b"ab", b"", "\u6f22".encode()]], np.object_)
    wide = np.zeros((4, 2048), np.float32)
    plain = request("add_sub", {"INPUT0": row, "INPUT1": row}, id="7", version="1", outputs=["OUTPUT0"])
    plain.outputs[0].parameters["classification"].int64_param = 2
    found = [
        plain,
        request("add_sub", {"INPUT0": row, "INPUT1": row}, typed=True, parameters={"device": "cpu", "timeout": 10**6}),
    ]
    for typed in (False, True):
        found += [request("texts", {"INPUT": text}, typed=typed), request("floats", {"INPUT": wide}, typed=typed)]
        found.append(request("integers", {"INPUT": np.arange(-8, 8)[None]}, typed=typed))
    return [message.SerializeToString() for message in found]


def mutated(message: bytes, choose: random.Random) -> bytes:
    """The message with one to four mutations."""
    for _ in range(choose.randint(1, 4)):
        message = choose.choice(MUTATIONS)(message, choose)
    return message


def _place(message: bytes, choose: random.Random) -> int:
    """A position; mostly near the beginning, where the structure is."""
    return choose.randrange(min(len(message), 200 if choose.random() < 0.8 else len(message)) or 1)


def _flip(message: bytes, choose: random.Random) -> bytes:
    at = _place(message, choose)
    return message[:at] + bytes((choose.randrange(256),)) + message[at + 1 :]


def _cut(message: bytes, choose: random.Random) -> bytes:
    return message[: _place(message, choose)]


def _remove(message: bytes, choose: random.Random) -> bytes:
    at = _place(message, choose)
    return message[:at] + message[at + choose.randint(1, 40) :]


def _repeat(message: bytes, choose: random.Random) -> bytes:
    at = _place(message, choose)
    part = message[at : at + choose.randint(1, 40)]
    return message[:at] + part * choose.choice((2, 3, 50, 5000)) + message[at:]


def _number(message: bytes, choose: random.Random) -> bytes:
    at = _place(message, choose)
    return message[:at] + varint(choose.choice(EDGES)) + message[at + choose.randint(0, 2) :]


def _field(message: bytes, choose: random.Random) -> bytes:
    """Appends a field of any number and wire type, with a value of any length."""
    tag = varint((choose.randint(0, 20) << 3) | choose.randrange(8))
    value = choose.randbytes(choose.choice((0, 1, 8, 40)))
    return message + tag + (varint(len(value)) if choose.random() < 0.7 else b"") + value


def _noise(message: bytes, choose: random.Random) -> bytes:
    return choose.randbytes(choose.randint(0, 60))


def mutated_text(text: str, choose: random.Random) -> str:
    """The configuration with one to four lines or words changed."""
    for _ in range(choose.randint(1, 4)):
        lines = text.splitlines() or [""]
        at = choose.randrange(len(lines))
        numbers = list(re.finditer(r"-?\d+", text))
        kind = choose.randrange(6)
        if kind == 0:
            lines.pop(at)
        elif kind == 1:
            lines.insert(at, choose.choice(lines))
        elif kind == 2:
            lines[at] = mutated(lines[at].encode() or b" ", choose).decode(errors="replace")
        if kind <= 2:
            text = "\n".join(lines)
        elif numbers:
            chosen = choose.choice(numbers)
            number = str(choose.choice((-1, 1)) * choose.choice(EDGES))
            text = text[: chosen.start()] + number + text[chosen.end() :]
    return text


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _flip, _cut, _remove, _repeat, _number, _field, _noise)


def cases(seed: int) -> Iterator[bytes]:
    """Mutated messages without an end, the same ones for each seed."""
    choose, valid = random.Random(seed), seeds()
    while True:
        yield mutated(choose.choice(valid), choose)


def fuzz_decoder(messages: Iterator[bytes], ends_s: float, limit: int | None = None) -> Counter[str]:
    """Decodes messages until the time is up; the outcomes by kind. An error other than the server's own is raised."""
    decoder, outcomes = Codec(None), Counter[str]()
    while time.monotonic() < ends_s and (limit is None or outcomes.total() < limit):
        message = next(messages)
        started_s = time.monotonic()
        try:
            decoder.decode(message, {}, None, 0.0)
            outcome = "decoded"
        except ServingError as error:
            outcome = type(error).__name__
            str(error).encode(errors="strict")
        except Exception as error:
            raise AssertionError(f"{error!r} for the message {message.hex()}") from error
        codec.identify(message)
        assert time.monotonic() - started_s < HANG_S, f"a message took too long: {message[:100].hex()}..."
        outcomes[outcome] += 1
    return outcomes


def save_repository(root: Path) -> None:
    """The models that the messages name."""
    models.save(root, "add_sub", models.add_sub(), configuration="max_batch_size: 8")
    for name, datatype in (("texts", "BYTES"), ("floats", "FP32"), ("integers", "INT64")):
        models.save(root, name, models.identity(datatype, ("batch", "n")), configuration="max_batch_size: 8")


def fuzz_server(
    address: str, messages: Iterator[bytes], ends_s: float, limit: int | None = None
) -> tuple[Counter[str], list[bytes]]:
    """Sends messages until the time is up; the statuses, and the messages that got one which isn't allowed."""
    outcomes, wrong = Counter[str](), list[bytes]()
    valid = seeds()[0]
    with grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)]) as channel:
        call = channel.unary_unary(INFER, bytes, bytes)
        while time.monotonic() < ends_s and (limit is None or outcomes.total() < limit):
            message = next(messages)
            code = _status(call, message)
            outcomes[code] += 1
            if code not in ALLOWED:
                wrong.append(message)
            if outcomes.total() % 100 == 0:
                assert pb.ModelInferResponse.FromString(call(valid, timeout=HANG_S)).id == "7"
    return outcomes, wrong


def save_mutants(root: Path, choose: random.Random, count: int) -> None:
    """A good model, and so many whose files or configurations are mutated."""
    models.save(root, "good", models.add_constant(1))
    files = [make().SerializeToString() for make in (models.mlp, models.convolutions, models.countdown, models.add_sub)]
    plain = models.add_constant(1).SerializeToString()
    for number in range(count):
        if number % 2:
            models.save(root, f"mutant{number}", mutated(choose.choice(files), choose))
        else:
            models.save(root, f"mutant{number}", plain, configuration=mutated_text(choose.choice(CONFIGURATIONS), choose))


def fuzz_repository(seed: int, count: int) -> Counter[str]:
    """Has a server load mutated models; how many it serves and how many it refuses. A failure is an AssertionError."""
    choose = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        save_mutants(Path(folder), choose, count)
        with running(Path(folder)) as server:
            index = server.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
            silent = [each.name for each in index if each.state != "READY" and not each.reason]
            assert not silent, f"seed {seed}: {silent} aren't ready, and nothing says why"
            answer = server.stub.ModelInfer(request("good", {"x": np.zeros((1, 2), np.float32)}), timeout=HANG_S)
            assert answer.model_name == "good"
            hidden = [line for line in server.process.log.splitlines() if "Traceback" in line or "internal error" in line]
            assert not hidden, f"seed {seed}: {hidden[:3]}"
            states = Counter(each.state for each in index)
    return states


def _status(call: Callable[..., bytes], message: bytes) -> str:
    try:
        call(message, timeout=HANG_S)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code.name
    return "OK"


def main() -> int:
    """Fuzzes for some minutes; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    part_s, failed = options.minutes * 60 / 4, False
    print("decoder", dict(fuzz_decoder(cases(options.seed), time.monotonic() + part_s)), flush=True)
    with tempfile.TemporaryDirectory() as root:
        save_repository(Path(root))
        for at, transport in enumerate(TRANSPORTS, start=1):
            with running(Path(root), transport=transport) as server:
                outcomes, wrong = fuzz_server(server.address, cases(options.seed + at), time.monotonic() + part_s)
                print(transport, dict(outcomes), flush=True)
                for message in wrong[:5]:
                    print(f"  not allowed: {message[:200].hex()} ({len(message)} bytes)")
                failed = failed or bool(wrong)
    ends_s, loaded, seed = time.monotonic() + part_s, Counter[str](), options.seed
    while time.monotonic() < ends_s:
        loaded += fuzz_repository(seed, MUTANTS)
        seed += 1
    print("models and configurations", dict(loaded))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
