"""What the package and the detector import, and that it is little."""

import subprocess
import sys

IMPORTS = """
import sys
import ebmlib
print(*sys.modules)
from ebmlib import EnergyDetector
print(*sys.modules)
"""


def test_little_is_imported_for_the_package_and_for_the_detector():
    """Nothing for the package; nothing that draws or measures for the detector."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True
    )
    package, detector = map(set, map(str.split, done.stdout.splitlines()))
    heavy = {"matplotlib", "sklearn", "torchvision", "joblib", "pandas", "ebmbook"}
    assert not package & (heavy | {"torch", "numpy", "scipy"})
    assert "torch" in detector and not detector & heavy
