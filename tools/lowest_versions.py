"""Run the library tests with every dependency at its lower bound in pyproject.toml.

    python tools/lowest_versions.py --venv FOLDER       # makes the environment, tests
    python tools/lowest_versions.py --list              # what would be installed

A bound that does not work is a promise that is broken where nobody looks. The folder is
kept, so a second run only tests. Python 3.11 is the lowest, and is what should run it.
"""

import argparse
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNNERS = ("pytest", "pytest-xdist")
TESTS = ["tests/library", "tests/processes"]
MARK = ".installed"  # the bounds that were installed


def bounds(extras: bool = True) -> list[str]:
    """Every dependency as "name==lower bound", optional ones included.

    Raises:
        ValueError: one that is not written as "name>=bound".
    """
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    asked = list(project["dependencies"])
    for lines in project["optional-dependencies"].values() if extras else ():
        asked += lines
    found = []
    for line in asked:
        match = re.fullmatch(r"([\w.-]+)>=([\w.]+)", line.replace(" ", ""))
        if match is None:
            raise ValueError(f"{line!r} has no single lower bound")
        found.append(f"{match[1]}=={match[2]}")
    return found


def install(folder: Path, asked: list[str]) -> Path:
    """Make the environment unless it is there; the path of its Python."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    mark = folder / MARK
    if mark.exists() and mark.read_text().split() == asked:
        return python
    venv.create(folder, clear=True, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", *asked, *RUNNERS], check=True)
    mark.write_text("\n".join(asked) + "\n")
    return python


def main() -> int:
    """Install, say what is there, test; the exit code of the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / "build" / "lowest")
    parser.add_argument("--list", action="store_true", help="print the versions alone")
    parser.add_argument("tests", nargs="*", default=TESTS)
    options = parser.parse_args()
    asked = bounds()
    print(*asked, f"Python {sys.version.split()[0]}", sep="\n", flush=True)
    if options.list:
        return 0
    python = install(options.venv, asked)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # The options of pyproject.toml are for chapters, which need the whole environment.
    words = [python, "-m", "pytest", "-q", "-o", "addopts=", *options.tests]
    return subprocess.run(words, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
