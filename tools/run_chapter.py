"""Run chapters and store their outputs: ``python tools/run_chapter.py FILE...``.

What differs from run to run without meaning anything (timestamps, cell ids of the
kernel, the patch version of Python) is removed, so that a diff shows only changes.
"""

import argparse
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def clean(notebook: nbformat.NotebookNode) -> None:
    """Keep outputs and counts; drop metadata that changes with every run."""
    notebook.metadata = {
        "kernelspec": KERNEL,
        "language_info": {"name": "python"},
        **{k: v for k, v in notebook.metadata.items() if k == "mystnb"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)


def run(path: Path) -> float:
    """Execute one notebook in its own folder, in place; return the seconds taken."""
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=1800,
        coalesce_streams=True,  # how the output was cut in time means nothing
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    clean(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return time.perf_counter() - started


def main() -> None:
    """Run every notebook named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    for path in parser.parse_args().notebooks:
        print(f"{path}: {run(path):.0f} s, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
