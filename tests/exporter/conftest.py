import sys
from pathlib import Path

# The examples are scripts, not a package: tests import them as a script beside them would.
sys.path.append(str(Path(__file__).parents[2] / "examples"))
