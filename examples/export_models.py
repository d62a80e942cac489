"""Exports the models of examples/models with their int8 variants, and tabulates what came of it. Run it with `make models`.

Takes about half an hour on two cores. `--only NAME` chooses models, `--small` makes small ones, and `--report FILE` writes the
table.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "transformers")
FOLDER = Path(__file__).parent / "models"
TEXT = ("--task", "text-classification")
SMALL_TEXT = {"vocabulary": 200, "width": 16}
SMALL_TRANSFORMER = SMALL_TEXT | {"positions": 64, "layers": 2, "heads": 2}
SMALL_HUGGING_FACE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 200
}  # fmt: skip

SMALL_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 200}


@dataclass(frozen=True)
class Example:
    """A model and how it is exported.

    Attributes:
        source: the file below examples/models and its factory.
        options: options of `turnout-export`.
        samples: the function of images.py that calibrates int8; empty for models that need none.
        small: arguments of the factory for a small one.
        needs: a package that isn't installed with Turnout; without it the model is left out.
    """

    name: str
    source: str
    options: tuple[str, ...]
    small: dict[str, Any]
    samples: str = ""
    needs: str = ""

    def command(self, repository: Path, *, is_small: bool, variants: Sequence[str]) -> list[str]:
        """The arguments of `turnout-export`."""
        arguments = [f"{FOLDER / self.source}", "--name", self.name, "--repository", str(repository), "--force", *self.options]
        arguments += [option for variant in variants for option in ("--variant", variant)]
        if self.samples:
            arguments += ["--samples", f"{FOLDER / 'images.py'}:{self.samples}"]
        kwargs = self.small if is_small else {}
        return arguments + [option for key, value in kwargs.items() for option in ("--kwarg", f"{key}={value}")]


def _image(pixels: int, values: str = "") -> tuple[str, ...]:
    return ("--input", f"image=float32[batch,3,{pixels},{pixels}]{values}", "--max-batch-size", "8")


EXAMPLES = (
    Example("resnet50", "resnet50.py:resnet50", _image(224), {}, "normalised"),
    Example("inception-v3", "inception_v3.py:inception_v3", _image(299), {}, "for_inception"),
    Example("lstm", "recurrent.py:lstm", TEXT, SMALL_TEXT),
    Example("lstm-packed", "recurrent.py:packed_lstm", TEXT, SMALL_TEXT),
    Example("rnn", "recurrent.py:rnn", TEXT, SMALL_TEXT),
    Example("yolov4", "yolov4.py:yolov4", _image(416, "@0:1"), {"width": 4, "blocks": [1, 1, 1, 1, 1]}, "for_yolo"),
    Example("bert", "bert.py:bert", TEXT, SMALL_TRANSFORMER),
    Example("gpt", "gpt.py:gpt", ("--task", "causal-lm"), SMALL_TRANSFORMER),
    Example("encoder", "encoder.py:encoder", TEXT, SMALL_TEXT | {"layers": 2, "heads": 2}),
    Example("hf-bert", "hugging_face.py:bert", (), SMALL_HUGGING_FACE, needs="transformers"),
    Example(
        "hf-gpt2",
        "hugging_face.py:gpt2",
        (),
        {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 200},
        needs="transformers",
    ),
)


def main() -> None:
    """Exports what is asked for; exits with 1 if one of them failed."""
    parser = argparse.ArgumentParser(description="Exports the models of examples/models, and tabulates what came of it.")
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--only", action="append", choices=[example.name for example in EXAMPLES])
    parser.add_argument("--small", action="store_true", help="small models, in seconds")
    parser.add_argument("--report", type=Path, help="a Markdown file for the table")
    arguments = parser.parse_args()
    rows, failed = [], []
    for example in EXAMPLES:
        if arguments.only and example.name not in arguments.only:
            continue
        if example.needs and find_spec(example.needs) is None:
            print(f"\n== {example.name} is left out: {example.needs} isn't installed")
            continue
        command = example.command(arguments.repository, is_small=arguments.small, variants=["int8"])
        print(f"\n== {example.name}", flush=True)
        began_s = time.monotonic()
        if subprocess.run([sys.executable, "-m", "turnout_exporter", *command], check=False).returncode:
            failed.append(example.name)
            continue
        rows.append(row(arguments.repository / example.name / "1", time.monotonic() - began_s))
    page = report(rows)
    print("\n" + page)
    if arguments.report:
        arguments.report.write_text(page, encoding="utf-8")
    if failed:
        sys.exit(f"error: {', '.join(failed)} couldn't be exported")


def row(folder: Path, seconds: float) -> list[str]:
    """The cells of one model, from its verification report."""
    found = json.loads((folder / "verification.json").read_text())
    original, *others = found["files"].values()
    variants = [_variant(file, original) for file in others]
    variants += [f"{name} left out: {reason}" for name, reason in found["left_out"].items()]
    sizes = ", ".join(f"{dim} {limit}" for dim, limit in found["sizes"].items())
    return [
        folder.parent.name, found["exporter"], f"{seconds:.0f} s", f"{original['bytes'] / 1e6:.1f} MB", sizes,
        f"{_max_error(original):.1e}", "; ".join(variants) or "none",
    ]  # fmt: skip


def report(rows: Sequence[Sequence[str]]) -> str:
    """The Markdown page with one row for each model."""
    head = ["model", "exporter", "time", "size", "proven for", "max error", "variants"]
    table = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(
        [
            "# Exported models",
            "",
            "Written by `make models`. The weights are random. An error is the largest difference to PyTorch at any point",
            "that was verified, as a share of an output's largest value. A speed is the float32 file's CPU time, divided",
            "by that of the variant.",
            "",
            f"- machine: {_processor()}, {platform.system()}",
            f"- date: {datetime.now(UTC):%Y-%m-%d}",
            f"- versions: {', '.join(_versions())}",
            "",
            *table,
            "",
        ]
    )


def _variant(file: dict[str, Any], original: dict[str, Any]) -> str:
    share = file["bytes"] / original["bytes"]
    return f"{file['precision']}: {file['speedup']:.1f}x, error {_max_error(file):.1e}, {share:.0%} of the size"


def _max_error(file: dict[str, Any]) -> float:
    return max(float(comparison["max_rel_error"]) for comparison in file["comparisons"])


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    main()
