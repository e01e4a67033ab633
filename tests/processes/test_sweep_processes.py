"""Facts about a sweep: nothing lost, nothing doubled, whatever dies on the way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_category import felt

from ebmlib import benchmark
from ebmlib.sweep import run_cell, sweep

QUICK = ["brightness", "pca", "per_pixel_gaussian"]
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


def tiny_cells(root: Path, out: Path) -> list[dict]:
    """A trained method and three that are not, on a category of few images."""
    words = ["--size", "32", "--seeds", "1", "--steps", "3", "--threads", "1"]
    words += ["--root", str(root), "--categories", "mvtec/felt", "--out", str(out)]
    words += ["--methods", "contrast", *QUICK]
    return benchmark.cells(benchmark.parser().parse_args(words), "a test")


def numbers(folder: Path) -> dict[str, dict]:
    """What must not depend on who ran the cell: all but seconds and memory."""
    found = {}
    for path in folder.rglob("*.json"):
        result = json.loads(path.read_text())  # whole: half a file is no JSON
        found[path.name] = {
            name: result[name] for name in ("settings", "metrics", "images", "seed")
        }
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    felt(root)
    return root


@pytest.fixture(scope="module")
def serial(root, tmp_path_factory):
    """The same cells, one after the other in this process."""
    folder = tmp_path_factory.mktemp("serial")
    for cell in tiny_cells(root, folder):
        benchmark.run_here(cell)
    return numbers(folder)


def test_threads_of_this_machine_give_the_numbers_of_a_serial_run(
    root, serial, tmp_path
):
    cells = tiny_cells(root, tmp_path)
    outcomes = list(sweep(cells[:2], jobs=2))
    assert all(outcome.ok for outcome in outcomes), outcomes
    found = numbers(tmp_path)
    assert found == {name: serial[name] for name in found} and len(found) == 2


@posix
def test_a_dask_cluster_that_loses_a_worker_loses_and_doubles_nothing(
    root, serial, tmp_path
):
    distributed = pytest.importorskip(
        "distributed", reason="the extra 'cluster' is not installed"
    )
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    cells = tiny_cells(root, tmp_path)[1:]  # no training: that takes long
    with (
        distributed.LocalCluster(**options, silence_logs="CRITICAL") as cluster,
        distributed.Client(cluster) as client,
    ):
        processes = client.run(os.getpid)
        running = sweep(cells, dask=cluster.scheduler_address)
        outcomes = [next(running)]
        # Two workers, two cells left: one worker at least is at work on one of them.
        busy = next(worker for worker, tasks in client.processing().items() if tasks)
        os.kill(processes[busy], signal.SIGKILL)
        outcomes += running
    assert all(outcome.ok for outcome in outcomes), outcomes
    names = [outcome.name for outcome in outcomes]
    assert sorted(names) == sorted(Path(cell["path"]).name for cell in cells)
    found = numbers(tmp_path)
    assert found == {name: serial[name] for name in found} and len(found) == 3


@posix
def test_a_cell_ends_when_the_one_that_asked_for_it_is_killed(tmp_path):
    program = (
        "import os, sys\n"
        "from ebmlib.sweep import watch_parent\n"
        "watch_parent()\n"
        "print('ready', flush=True)\n"
        "while True: os.read(int(sys.argv[1]), 1)\n"
    )
    blocked, never_written = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", program, str(blocked)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[blocked],
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        assert process.poll() is None
        process.stdin.close()  # what the system does when the parent dies
        assert process.wait() == 1
    os.close(blocked), os.close(never_written)


@posix
def test_a_cell_that_is_killed_leaves_no_file_and_says_by_what(
    root, tmp_path, monkeypatch
):
    (cell, *_) = tiny_cells(root, tmp_path)
    suicide = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **how: start(suicide, **how))
    outcome = run_cell(cell)
    assert not outcome.ok and "killed by signal 9" in str(outcome)
    assert not list(tmp_path.iterdir())
