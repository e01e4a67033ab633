"""Many results from one command: each in its own process, written whole or not at all.

A *cell* is one result: a category, a method, a seed and a size (chapter 12). Each one
runs in a fresh Python process. So its peak memory is its own, a cell that is killed
for memory fails alone, and the workers of the sweep only wait: threads of this
machine, or the workers of a Dask cluster, through the same call of joblib.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from joblib import Parallel, delayed, parallel_config

Cell = dict[str, Any]


class Outcome(NamedTuple):
    """What became of a cell: the name of its file, and one line about it."""

    name: str
    message: str
    ok: bool

    def __str__(self) -> str:
        return f"{self.name}: {'' if self.ok else 'FAILED: '}{self.message}"


def sweep(
    cells: Sequence[Cell], *, jobs: int = 1, dask: str | None = None
) -> Iterator[Outcome]:
    """Run all cells whose files are missing; yield outcomes as they come.

    Args:
        cells: as `ebmlib.benchmark.cells` makes them.
        jobs: cells at a time on this machine.
        dask: address of a Dask scheduler, such as "tcp://10.0.0.1:8786"; its workers
            then run the cells, one for each of their threads. They need the same
            Python packages, and must see the same folders. If a worker dies, another
            one takes over its cells.
    """
    with _workers(jobs, dask):
        parallel = Parallel(batch_size=1, return_as="generator_unordered")
        yield from parallel(delayed(run_cell)(cell) for cell in cells)


@contextmanager
def _workers(jobs: int, dask: str | None) -> Iterator[None]:
    if dask is None:
        with parallel_config(backend="threading", n_jobs=jobs):
            yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError(
            "a Dask cluster needs the package distributed: pip install ebmlib[cluster]"
        ) from error
    with Client(dask) as client, parallel_config(backend="dask", client=client):
        yield


def run_cell(cell: Cell) -> Outcome:
    """Run one cell in a process of its own, unless its file is there already."""
    path = Path(cell["path"])
    if path.exists():
        return Outcome(path.name, "already there", True)
    # The open pipe to the process tells it that somebody still waits: `watch_parent`.
    with subprocess.Popen(
        [sys.executable, "-m", "ebmlib.benchmark", "--cell", json.dumps(cell)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        lines = (process.stdout or io.StringIO()).read().strip().splitlines()
        code = process.wait()
    if code < 0:
        return Outcome(path.name, f"killed by signal {-code}", False)
    return Outcome(path.name, lines[-1] if lines else f"exit code {code}", code == 0)


def watch_parent() -> None:
    """End this process when the one that started it is gone.

    Otherwise the cells of a killed worker would run on, while others repeat them.
    """

    def wait() -> None:
        os.read(0, 1)  # nothing is ever sent: this returns when the pipe is closed
        os._exit(1)

    Thread(target=wait, daemon=True).start()
