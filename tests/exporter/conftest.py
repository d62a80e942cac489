import sys
from pathlib import Path

# The examples are scripts, not a package: what imports one finds it as another script beside it would.
sys.path.append(str(Path(__file__).parents[2] / "examples"))
