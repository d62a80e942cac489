"""`turnout-export verify`: whether a published version still computes what was published with it."""

import tempfile
from pathlib import Path

import click
from rich.console import Console

from turnout_exporter.cli.terminal import Terminal, exits_with_message
from turnout_exporter.conversion import run_verification
from turnout_exporter.errors import PublishError, Refused, SpecError
from turnout_exporter.jobs import VerifyJob
from turnout_exporter.pipeline import GOLDEN_FILE
from turnout_exporter.spec import reference
from turnout_exporter.version_folder import VersionFolder

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    help=f"Where to run it: {', '.join(_PROVIDERS)}, or an execution provider's name.",
)
@click.option("--verbose", is_flag=True, help="On an error, also show where in the code it happened.")
def verify_command(directory: Path, device: str, verbose: bool) -> None:
    """Runs the files of a version on its golden inputs, and compares the outputs with the golden ones.

    DIRECTORY is a version's folder, such as models/faces/1.
    """
    with exits_with_message(verbose), Terminal(Console()) as terminal:
        verify(VersionFolder.open(directory), provider_of(device), terminal)


def provider_of(device: str) -> str:
    """The execution provider of a device.

    Raises:
        SpecError: there is no such device.
    """
    if device not in _PROVIDERS and not device.endswith("ExecutionProvider"):
        raise SpecError(f"device {device!r} isn't known: use one of {', '.join(_PROVIDERS)}, or an execution provider's name")
    return _PROVIDERS.get(device, device)


def verify(version: VersionFolder, provider: str, terminal: Terminal) -> None:
    """Verifies every file of a version.

    Raises:
        ExportError: a file was changed, can't be run, or gives other outputs.
    """
    terminal.step("Comparing the files with model.json")
    if problems := version.changed_files():
        raise Refused("; ".join(problems))
    golden = version.path / GOLDEN_FILE
    if not golden.is_file():
        raise PublishError(f"{version.path} has no {GOLDEN_FILE}, so nothing says which outputs are right")
    with tempfile.TemporaryDirectory(prefix="turnout-verify-") as directory:
        samples = Path(directory) / "reference"
        reference.write(samples, reference.read_golden(golden))
        wrong = []
        for name, tolerance in version.models.items():
            job = VerifyJob(version.inputs, 0, str(version.path / name), str(samples), tolerance, provider)
            verified = run_verification(job, f"Running {name} on {provider}", Path(directory), terminal)
            terminal.compared(verified.comparisons)
            wrong += [f"{name} at {c.point}, output {c.output!r} {c.problem}" for c in verified.comparisons if c.problem]
    if wrong:
        raise Refused("\n  ".join([f"{version.path} doesn't give its golden outputs on {provider}:", *wrong]))
