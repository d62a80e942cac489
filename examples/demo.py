"""Turnout from end to end: train, export, serve, classify on every device, load-test, report. Run it with `make demo`.

Nothing is downloaded: the digits come with scikit-learn, and ResNet-50 has seeded random weights. Takes about
two minutes on two cores, half of that once its models are there. Exits 0 when each device classified exactly as PyTorch does
and the CNN reached its accuracy.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import digits
import grpc
import numpy as np
import resume
import torch
import turnout_exporter
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import nn
from turnout_loadtests.client import connect, wait_until_ready, why_unavailable
from turnout_loadtests.compare import Options, Run
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.measuring.server import ServerAddress
from turnout_loadtests.payloads import infer_request, outputs_of
from turnout_loadtests.plan import PROFILES, Request
from turnout_loadtests.reporting import report
from turnout_loadtests.reporting import results as files
from turnout_loadtests.reporting.terminal import FILE_WIDTH, progress_on, show
from turnout_proto.methods import Stub

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path("models")
DEVICES = ("cpu", "cuda")
CNN_ACCURACY = 0.98
ROWS_PER_REQUEST = 32
START_TIMEOUT_S, STOP_TIMEOUT_S, CLASSIFY_TIMEOUT_S = 120, 45, 30
# Trained weights and notes of finished steps, for the next run. The server ignores hidden directories.
KEPT = MODELS / ".demo"
EXPORTER = sorted(Path(turnout_exporter.__file__).parent.rglob("*.py"))
VERSIONS = [f"{package}=={version(package)}" for package in ("torch", "onnx", "onnxscript")]

console = Console(highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else FILE_WIDTH)


class DemoError(Exception):
    """Why the demo can't continue, or what it found wrong."""


@dataclass(frozen=True)
class Classifier:
    """A trained model as it is served, and PyTorch's own answers for the held-out digits."""

    name: str
    input: str
    images: NDArray[np.float32]  # (n, ...), as the model takes them
    answers: NDArray[np.int64]  # (n,)
    accuracy: float


def main() -> None:
    """Run the demo; exits with 1 and the reason in one line if something failed."""
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped on SIGTERM as well
    began_s = time.monotonic()
    folder = Path("reports") / f"{datetime.now():%Y-%m-%d-%H%M%S}"
    console.print("[bold]Turnout's demo[/bold]: train, export, serve, classify, load-test. Ctrl-C keeps what is done.\n")
    try:
        classifiers = [train_and_export("cnn", "image"), train_and_export("lstm", "rows")]
        export("examples/models/resnet50.py:resnet50", "resnet50", "image=float32[batch,3,224,224]")
        with served(folder / "server.log") as server:
            classify(connect(server.host), classifiers)
            measured = load_test(server, folder)
        report.render(measured, folder)
    except (DemoError, LoadTestError) as error:
        console.print(f"[red]demo failed:[/red] {escape(str(error))}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    show(console, measured)
    console.print(f"\n[green]All devices answer as PyTorch does.[/green] Report: {folder / 'report.html'}")
    console.print(f"Took {time.monotonic() - began_s:.0f} s.")
    say_what_next()


def say_what_next() -> None:
    """Print three commands to continue with."""
    commands = os.path.relpath(Path(sys.executable).parent)
    console.print("\n[bold]Try next[/bold]")
    for command, purpose in (
        (f"turnout-server --model-repository {MODELS}", "serve these models: gRPC on port 8001, metrics on 8002"),
        ("turnout-server explain resnet50 --rows 8 --at 127.0.0.1:8002", "ask that server where a request would run, and why"),
        (
            "turnout-loadtest compare digits-cnn --profile standard --slo-p99 50ms",
            "find what it carries within a latency target",
        ),
    ):
        console.print(f"  [dim]# {purpose}[/dim]\n  {commands}/{command}")


def train_and_export(kind: str, input_name: str) -> Classifier:
    """Train a digits model, publish it as `digits-<kind>`, and note PyTorch's answers."""
    name, shape = f"digits-{kind}", digits.INPUT_SHAPES[kind]
    weights = KEPT / f"{name}.safetensors"
    model = trained(kind, name, weights)
    data = digits.split()
    accuracy = digits.accuracy(model, kind, data)
    console.print(f"  {accuracy:.2%} of the held-out digits are right")
    sizes = ",".join(map(str, shape))
    export(f"examples/digits.py:{kind}", name, f"{input_name}=float32[batch,{sizes}]@0:1", weights)
    images = data.held_out_images.reshape(-1, *shape)
    with torch.inference_mode():
        answers = model(images)["logits"].argmax(dim=1)
    return Classifier(name, input_name, images.numpy(), answers.numpy(), accuracy)


def trained(kind: str, name: str, weights: Path) -> nn.Module:
    """The trained model in evaluation mode, from an earlier run if that trained the same."""
    training = resume.Step(weights.with_suffix(".trained"), [Path("examples/digits.py"), kind, *VERSIONS], [weights])
    if training.is_done():
        already_done(f"Training {name}")
        model = digits.FACTORIES[kind]()
        model.load_state_dict(load_file(weights))
        return model.eval()
    with step(f"Training {name}") as progress:
        model = digits.train(kind, progress=lambda done, total: progress.share(done / total)).model
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), weights)
    training.done()
    return model


def export(source: str, name: str, tensor: str, weights: Path | None = None) -> None:
    """Publish a model into `models/` with the exporter's own command, unless an earlier run published the same."""
    command = ["-m", "turnout_exporter", source, "--name", name, "--repository", str(MODELS), "--input", tensor, "--force"]
    made_from: list[Path | str] = [*command, Path(source.partition(":")[0]), *EXPORTER, *VERSIONS]
    if weights:
        command += ["--weights", str(weights)]
        made_from.append(weights)
    published = MODELS / name / "1"
    exporting = resume.Step(KEPT / f"{name}.exported", made_from, [published / "model.json", published / "model.onnx"])
    if exporting.is_done():
        already_done(f"Exporting {name}")
    else:
        with step(f"Exporting {name}") as progress:
            run_exporter([sys.executable, *command], name, progress)
        exporting.done()
    verified = json.loads((published / "model.json").read_text())["verification"]
    worst = max(point["max_abs_error"] for point in verified)
    console.print(f"  verified against PyTorch at {len(verified)} sizes, largest difference {worst:.1e}")


def run_exporter(command: Sequence[str], name: str, progress: "Progressing") -> None:
    """Run the exporter's command, and show each step that it completes."""
    lines = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"}, encoding="utf-8", errors="replace",
    ) as exporter:  # fmt: skip
        try:
            for line in exporter.stdout or ():
                lines.append(line)
                if line.startswith("✓"):
                    progress.say(line.rstrip())
        except BaseException:  # an interrupt, for one
            exporter.kill()
            raise
    if exporter.returncode:
        raise DemoError(f"exporting {name} failed:\n{''.join(lines)}")


@contextmanager
def served(log: Path) -> Iterator[ServerAddress]:
    """Run the server on `models/` and free ports; yields its address once it is ready, and stops it in the end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "turnout_server", "--model-repository", str(MODELS), "--grpc-port", "0"]
    with log.open("wb") as lines:
        server = subprocess.Popen([*command, "--metrics-port", "0"], stdin=subprocess.DEVNULL, stderr=lines)
    try:
        with step("Starting the server"):
            found = address(server, log)
            wait_until_ready(connect(found.host), START_TIMEOUT_S)
        yield found
        with step("Stopping the server"):
            stop(server)
    finally:
        server.kill()  # nothing happens when it has exited
        server.wait()


def address(server: "subprocess.Popen[bytes]", log: Path) -> ServerAddress:
    """The addresses that the server listens on, from its log."""
    until_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until_s and server.poll() is None:
        if found := re.search(r"gRPC on (\S+:\d+), metrics on (\S+:\d+)", log.read_text()):
            return ServerAddress(found[1], found[2], server.pid, log)
        time.sleep(0.1)
    raise DemoError(f"the server didn't start (exit code {server.poll()}); the end of {log}:\n{log.read_text()[-2000:]}")


def stop(server: "subprocess.Popen[bytes]") -> None:
    """Stop the server as an orchestrator would, and check that it exits cleanly."""
    server.terminate()
    try:
        code = server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired as late:
        raise DemoError(f"the server was still running {STOP_TIMEOUT_S} s after SIGTERM") from late
    if code:
        raise DemoError(f"the server exited with {code} on SIGTERM")


def classify(stub: Stub, classifiers: Sequence[Classifier]) -> None:
    """Classify the held-out digits on every device and compare the answers with PyTorch's."""
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
    """Whether the device can be used; determined as by any client, with a request for it."""
    reason = why_unavailable(stub, infer_request(model.name, {model.input: model.images[:1]}, device))
    if reason:
        console.print(f"{device}: not available: {escape(reason)}")
    return reason is None


def ask(stub: Stub, model: Classifier, device: str) -> Iterator[NDArray[np.int64]]:
    """The digits that a device answers, in one array (rows,) int64 per request."""
    for start in range(0, len(model.images), ROWS_PER_REQUEST):
        images = model.images[start : start + ROWS_PER_REQUEST]
        try:
            answer = stub.ModelInfer(infer_request(model.name, {model.input: images}, device), timeout=CLASSIFY_TIMEOUT_S)
        except grpc.RpcError as error:
            raise DemoError(f"{model.name} on {device}: {error.code().name}: {error.details()}") from error
        yield outputs_of(answer)["logits"].argmax(axis=1)


def load_test(server: ServerAddress, folder: Path) -> files.Results:
    """A short comparison of each model's devices."""
    profile = replace(PROFILES["quick"], rounds=2, window_s=2.0, batches=(1,))
    request = Request(("digits-cnn", "digits-lstm", "resnet50"), DEVICES, profile)
    with progress_on(console) as shown:
        progress = replace(
            shown, said=lambda _: None, planned=lambda *_: None, written=lambda found: files.write(found, folder)
        )
        run = Run(request, Options("python examples/demo.py"), server, progress)
        complete = run.measure()
    results = run.results(complete=complete)
    files.write(results, folder)
    return results


@dataclass(frozen=True)
class Progressing:
    """How far a step is: a bar on a terminal, lines elsewhere."""

    bars: Progress
    bar: TaskID
    name: str

    def share(self, done: float) -> None:
        """Show the share that is done, 0 to 1."""
        self.bars.update(self.bar, total=1.0, completed=done)

    def say(self, text: str) -> None:
        """Show what has been completed."""
        self.bars.update(self.bar, description=f"{self.name} ({escape(text)})")
        if not console.is_terminal:
            console.print(f"  {escape(text)}")


@contextmanager
def step(name: str) -> Iterator[Progressing]:
    """Show that a step is running, and then how long it took."""
    if not console.is_terminal:
        console.print(f"{name} ...")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar, began_s = bars.add_task(name, total=None), time.monotonic()
        yield Progressing(bars, bar, name)
    console.print(f"[green]✓[/green] {name}: {time.monotonic() - began_s:.1f} s")


def already_done(name: str) -> None:
    """Say that a step needn't run again."""
    console.print(f"[green]✓[/green] {name}: done by an earlier run")


if __name__ == "__main__":
    main()
