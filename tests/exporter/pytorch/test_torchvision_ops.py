"""In a process of its own: operators can't be taken back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import torch
from turnout_exporter.pytorch import torchvision_ops
torchvision_ops.make_importable()
torchvision_ops.make_importable()
print(hasattr(torch.ops.torchvision, "nms"))
"""


@pytest.mark.parametrize("library", [b"not a library", None])
def test_operators_are_declared_only_where_torchvision_is_there_and_cannot_be_loaded(
    tmp_path: Path, library: bytes | None
) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").touch()
    if library is not None:
        (package / "_C.so").write_bytes(library)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(
        [sys.executable, "-c", PROBE], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(library is not None)
