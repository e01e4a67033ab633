"""Time the chapters; write a record in results/, which the status page shows.

    python tools/time_chapters.py

Every chapter runs once, alone, in a process of its own, as the set-up cell says (two
threads). Nothing is stored in the notebooks. Run it on a machine that does nothing
else; the load at the start is written beside the times.
"""

import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from ebmlib.results_files import DRILLS, record_path, write_result

ROOT = Path(__file__).resolve().parents[1]
TARGET = record_path(ROOT / "results", DRILLS, "time_chapters")
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "matplotlib", "nbclient")


def seconds(path: Path) -> float:
    """Run a copy of one chapter in an empty folder; the seconds of wall clock."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=1800,
            resources={"metadata": {"path": folder}},
        ).execute()
        return time.perf_counter() - started


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(": ")[1] for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """Time all chapters and write the file whole or not at all."""
    load = round(os.getloadavg()[0], 1)
    times = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        times[path.stem] = round(seconds(path), 1)
        print(f"{path.stem}: {times[path.stem]:.1f} s", flush=True)
    result = {
        "what": "wall clock of each chapter, run once, start of the kernel included",
        "command": "python tools/time_chapters.py",
        "date": time.strftime("%Y-%m-%d"),
        "load_at_start": load,
        "hardware": {
            "machine": processor(),
            "cores": os.cpu_count(),
            "threads": 2,
            "gpu": None,
        },
        "versions": {"python": sys.version.split()[0]}
        | {name: version(name) for name in PACKAGES},
        "seconds": times,
    }
    write_result(TARGET, result)


if __name__ == "__main__":
    main()
