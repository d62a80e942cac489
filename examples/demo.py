"""Turnout from end to end: train, export, serve, classify on every device, load-test, report. Run it with `make demo`.

Everything real and nothing downloaded: the digits come with scikit-learn, ResNet-50 has seeded random weights. Needs about
four minutes on two cores. Exits 0 when each device classified exactly as PyTorch does and the CNN reached its accuracy.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import digits
import grpc
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from safetensors.torch import save_file
from turnout_loadtests import report, results
from turnout_loadtests.cells import Load
from turnout_loadtests.client import connect, wait_until_ready, why_unavailable
from turnout_loadtests.compare import Comparison, compare
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.payloads import infer_request, outputs_of
from turnout_loadtests.terminal import progress_on, show
from turnout_proto.methods import Stub

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path("models")
DEVICES = ("cpu", "cuda")
CNN_ACCURACY = 0.98
ROWS_PER_REQUEST = 32
EXPORT_TIMEOUT_S, START_TIMEOUT_S, STOP_TIMEOUT_S, CLASSIFY_TIMEOUT_S = 240, 120, 45, 30

console = Console(highlight=False, soft_wrap=True)


class DemoError(Exception):
    """Why the demo can't go on, or what it found wrong."""


@dataclass(frozen=True)
class Classifier:
    """A trained model, what it is called when served, and what PyTorch itself answers for the held-out digits."""

    name: str
    input: str
    images: NDArray[np.float32]  # (n, ...), as the model takes them
    answers: NDArray[np.int64]  # (n,)
    accuracy: float


def main() -> None:
    """The demo; 1 as exit code when something failed, with one line that says what."""
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then, too
    began_s = time.monotonic()
    folder = Path("reports") / f"{datetime.now():%Y-%m-%d-%H%M%S}"
    try:
        classifiers = [train_and_export("cnn", "image"), train_and_export("lstm", "rows")]
        export("examples/resnet50.py:resnet50", "resnet50", "image=float32[batch,3,224,224]")
        with served(folder / "server.log") as host:
            classify(connect(host), classifiers)
            measured = load_test(host, folder)
        report.render(measured, folder)
    except (DemoError, LoadTestError) as error:
        console.print(f"[red]demo failed:[/red] {escape(str(error))}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    show(console, measured)
    console.print(f"\n[green]All devices answer as PyTorch does.[/green] Report: {folder / 'report.html'}")
    console.print(f"Took {time.monotonic() - began_s:.0f} s.")


def train_and_export(kind: str, input_name: str) -> Classifier:
    """Train a digits model, publish it as `digits-<kind>`, and note PyTorch's answers."""
    name, shape = f"digits-{kind}", digits.INPUT_SHAPES[kind]
    with step(f"Training {name}") as bar:
        trained = digits.train(kind, progress=lambda done, total: bar(done / total))
    console.print(f"  {trained.accuracy:.2%} of the held-out digits are right")
    with tempfile.TemporaryDirectory() as scratch:
        weights = f"{scratch}/{name}.safetensors"
        save_file(trained.model.state_dict(), weights)
        sizes = ",".join(map(str, shape))
        export(f"examples/digits.py:{kind}", name, f"{input_name}=float32[batch,{sizes}]@0:1", "--weights", weights)
    images = digits.split().held_out_images.reshape(-1, *shape)
    with torch.inference_mode():
        answers = trained.model(images)["logits"].argmax(dim=1)
    return Classifier(name, input_name, images.numpy(), answers.numpy(), trained.accuracy)


def export(source: str, name: str, tensor: str, *options: str) -> None:
    """Publish a model into `models/` with the exporter's own command."""
    command = [sys.executable, "-m", "turnout_exporter", source, "--name", name, "--repository", str(MODELS)]
    with step(f"Exporting {name}"):
        try:
            done = subprocess.run(
                [*command, "--input", tensor, "--force", *options],
                stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True, timeout=EXPORT_TIMEOUT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            raise DemoError(f"exporting {name} took more than {EXPORT_TIMEOUT_S} s") from late
        if done.returncode:
            raise DemoError(f"exporting {name} failed:\n{done.stdout}{done.stderr}")
    verified = json.loads((MODELS / name / "1" / "model.json").read_text())["verification"]
    worst = max(point["max_abs_error"] for point in verified)
    console.print(f"  verified against PyTorch at {len(verified)} sizes, largest difference {worst:.1e}")


@contextmanager
def served(log: Path) -> Iterator[str]:
    """Run the server on `models/` and a free port, ready to answer; the address. It is stopped whatever happens."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "turnout_server", "--model-repository", str(MODELS), "--grpc-port", "0"]
    with log.open("wb") as lines:
        server = subprocess.Popen([*command, "--metrics-port", "0"], stdin=subprocess.DEVNULL, stderr=lines)
    try:
        with step("Starting the server"):
            host = address(server, log)
            wait_until_ready(connect(host), START_TIMEOUT_S)
        yield host
        with step("Stopping the server"):
            stop(server)
    finally:
        server.kill()  # nothing happens when it has exited
        server.wait()


def address(server: "subprocess.Popen[bytes]", log: Path) -> str:
    """Where the server listens, from its log."""
    until_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until_s and server.poll() is None:
        if found := re.search(r"gRPC on (127\.0\.0\.1:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    raise DemoError(f"the server didn't start (exit code {server.poll()}); the end of {log}:\n{log.read_text()[-2000:]}")


def stop(server: "subprocess.Popen[bytes]") -> None:
    """Ask the server to finish, as an orchestrator would, and see that it does so cleanly."""
    server.terminate()
    try:
        code = server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired as late:
        raise DemoError(f"the server was still running {STOP_TIMEOUT_S} s after SIGTERM") from late
    if code:
        raise DemoError(f"the server exited with {code} on SIGTERM")


def classify(stub: Stub, classifiers: Sequence[Classifier]) -> None:
    """Classify the held-out digits on every device and hold the answers against PyTorch's."""
    table = Table("model", "where", "accuracy", "answers as PyTorch's", box=None, pad_edge=False, header_style="bold")
    wrong = []
    devices = [device for device in DEVICES if available(stub, device, classifiers[0])]
    for model in classifiers:
        table.add_row(model.name, "PyTorch", f"{model.accuracy:.2%}", "")
        for device in devices:
            answers = np.concatenate(list(ask(stub, model, device)))
            same = int((answers == model.answers).sum())
            right = float((answers == digits.split().held_out_digits.numpy()).mean())
            table.add_row(model.name, device, f"{right:.2%}", f"{same} of {len(answers)}")
            if same < len(answers):
                wrong.append(f"{model.name} on {device} answers {len(answers) - same} digits unlike PyTorch")
    console.print(table)
    if classifiers[0].accuracy < CNN_ACCURACY:
        wrong.append(f"{classifiers[0].name} is right {classifiers[0].accuracy:.2%} of the time, not {CNN_ACCURACY:.0%}")
    if wrong:
        raise DemoError("; ".join(wrong))


def available(stub: Stub, device: str, model: Classifier) -> bool:
    """Can it be used? Found out as any client would: by asking for it."""
    reason = why_unavailable(stub, infer_request(model.name, {model.input: model.images[:1]}, device))
    if reason:
        console.print(f"{device}: not available: {escape(reason)}")
    return reason is None


def ask(stub: Stub, model: Classifier, device: str) -> Iterator[NDArray[np.int64]]:
    """The digits that a device names, a request at a time."""
    for start in range(0, len(model.images), ROWS_PER_REQUEST):
        images = model.images[start : start + ROWS_PER_REQUEST]
        try:
            answer = stub.ModelInfer(infer_request(model.name, {model.input: images}, device), timeout=CLASSIFY_TIMEOUT_S)
        except grpc.RpcError as error:
            raise DemoError(f"{model.name} on {device}: {error.code().name}: {error.details()}") from error
        yield outputs_of(answer)["logits"].argmax(axis=1)


def load_test(host: str, folder: Path) -> results.Results:
    """Locust on each model, device and batch, one after another."""
    load = Load(host=host, model="", device="", users=4, warm_up_s=1, duration_s=8)
    plan = Comparison(["digits-cnn", "digits-lstm", "resnet50"], DEVICES, batches=(1, 8), load=load)
    with progress_on(console) as progress:
        said_already = replace(progress, skipped=lambda _: None)
        measured = compare(plan, folder, ["python", "examples/demo.py"], said_already)
    results.write(measured, folder)
    return measured


@contextmanager
def step(name: str) -> Iterator[Callable[[float], None]]:
    """Show that something goes on, and how long it took; yields what to call with the share done, where that's known."""
    if not console.is_terminal:
        console.print(f"{name} ...")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar, began_s = bars.add_task(name, total=None), time.monotonic()
        yield lambda share: bars.update(bar, total=1.0, completed=share)
    console.print(f"[green]✓[/green] {name}: {time.monotonic() - began_s:.1f} s")


if __name__ == "__main__":
    main()
