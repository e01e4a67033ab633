"""Facts about the package: what `import ebmlib` offers, and what it costs."""

import importlib
import subprocess
import sys

import pytest

import ebmlib


def imported(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after `code`."""
    code += "\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_else():
    assert not imported("import ebmlib") & {"torch", "numpy", "scipy", "matplotlib"}


def test_the_detector_needs_little_more_than_torch():
    """Nothing that only draws, measures or downloads is imported for it."""
    found = imported("from ebmlib import EnergyDetector")
    heavy = {"matplotlib", "sklearn", "torchvision", "joblib", "pandas", "ebmbook"}
    assert "torch" in found
    assert not found & heavy


@pytest.mark.parametrize("name", ebmlib.__all__)
def test_each_public_name_is_the_one_of_its_file(name):
    value = getattr(ebmlib, name)
    assert getattr(importlib.import_module(value.__module__), name) is value
    assert value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Detector'"):
        _ = ebmlib.Detector
