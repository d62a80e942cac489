"""Programs that check what is deployed: from `make .venv-deploy/.installed`, or installed on this machine."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-deploy"


def tool(name: str, package: str = "") -> str:
    """The path of a program; skips the test where it is missing.

    Args:
        package: Debian's package that has it; by default `make deploy-check` installs it.
    """
    found = shutil.which(name, path=str(ENVIRONMENT / "bin")) or shutil.which(name)
    if found is None:
        how = f"on Debian: apt-get install {package}" if package else "make deploy-check installs it"
        pytest.skip(f"{name} isn't installed here; {how}")
    return found
