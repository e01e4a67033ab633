"""Methods of other packages on the images, and by the metrics, of the library.

    python benchmarks/peers/run.py --root FOLDER --categories mvtec/bottle mvtec/screw

README.md beside this file says how to install them. One file for each category, method
and change of the images; what is there is skipped. Each run has a process of its own,
and a file is written whole or not at all.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import methods
import numpy as np
import torch
from torch import Tensor

from ebmlib import benchmark
from ebmlib.data import Category, load
from ebmlib.metrics import au_pro
from ebmlib.results_files import (
    check_writable,
    peer_path,
    peers_name,
    slug,
    write_result,
)
from ebmlib.sweep import watch_parent

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from changes import CHANGES  # noqa: E402

REPEATS = 3  # of each implementation of AU-PRO; the median is recorded
UNCHANGED = "none"
ALLOCATOR = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")  # see README.md
Cell = dict[str, Any]

# ------------------------------------------------------------------------ one run


def read(category: str, size: int, roots: list[str]) -> Category:
    """A category in three channels, from the first root that holds it.

    Raises:
        ValueError: none of the roots holds it.
    """
    source, _, name = category.partition("/")
    if source != "mvtec":
        return load(category, size=size)
    for root in roots:
        if (Path(root) / name / "train" / "good").is_dir():
            return load(category, size=size, root=root, channels=3)
    raise ValueError(
        f"{category}: no folder {name}/train/good below {', '.join(roots) or 'a root'};"
        " name the folder that holds it with --root"
    )


def run(data: Category, method: str, seed: int) -> dict[str, Any]:
    """Fit one method, score every test image once, and measure the answer.

    Returns:
        A JSON-able result with the entries of `ebmlib.benchmark.run`, and "package",
        "own_metrics" and "au_pro_seconds". Seconds with "cpu" in their names count what
        the processor worked for this process, all others the time that passed.
    """
    size = data.train.shape[-1]
    torch.manual_seed(seed)
    np.random.seed(seed)  # anomalib draws from it too
    peer = methods.METHODS[method](size)
    start, start_cpu = time.perf_counter(), time.process_time()
    peer.fit(data.train)
    fitted, fitted_cpu = time.perf_counter(), time.process_time()
    scores, maps = peer.answer(data.test)
    done, done_cpu = time.perf_counter(), time.process_time()
    memory = benchmark.peak_memory_mb()
    answer = benchmark.Answer({"score": scores}, maps, {})
    own, seconds = compared(scores, maps, data)
    return {
        "category": data.name,
        "package": peer.package,
        "method": method,
        "seed": seed,
        "image_size": size,
        "settings": peer.settings,
        "metrics": benchmark.measure(answer, data),
        "own_metrics": own,
        "au_pro_seconds": seconds,
        "images": {
            "train": len(data.train),
            "labels": data.labels.int().tolist(),
            "kinds": data.kinds,
            "scores": {"score": [float(f"{score:.6g}") for score in scores.tolist()]},
        },
        "vanished_masks": len(data.notes),
        "seconds": {
            "fit": round(fitted - start, 1),
            "test": round(done - fitted, 1),
            "fit_cpu": round(fitted_cpu - start_cpu, 1),
            "test_cpu": round(done_cpu - fitted_cpu, 1),
            "per_test_image_cpu": round((done_cpu - fitted_cpu) / len(data.test), 4),
        },
        "peak_memory_mb": None if memory is None else round(memory),
        "versions": benchmark.versions() | methods.versions(),
        "hardware": benchmark.hardware(),
        "environment": {n: os.environ[n] for n in ALLOCATOR if n in os.environ},
        "date": benchmark.today(),
    }


def compared(
    scores: Tensor, maps: Tensor, data: Category
) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics by anomalib, and the CPU seconds of both computations of AU-PRO."""
    theirs = methods.anomalib_metrics(scores, maps, data.labels, data.masks)
    own, seconds = timed(theirs["au_pro"])
    exact, ours = timed(lambda: au_pro(maps, data.masks))
    metrics = {
        name: round(theirs[name](), 6) for name in ("image_auroc", "pixel_auroc")
    }
    metrics |= {"au_pro": round(own, 6), "au_pro_minus_exact": round(own - exact, 8)}
    return metrics, {"anomalib": round(seconds, 3), "ebmlib": round(ours, 3)}


def timed(measure: Callable[[], float]) -> tuple[float, float]:
    """The value, and the median seconds of the processor over REPEATS calls."""
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        value = measure()
        taken.append(time.process_time() - start)
    return value, statistics.median(taken)


def run_here(cell: Cell) -> str:
    """Run one cell in this process and write its file; the line to print about it."""
    torch.set_num_threads(cell["threads"])
    data = read(cell["category"], cell["size"], cell["roots"])
    if cell["change"] != UNCHANGED:
        data = CHANGES[cell["change"]](data)
    methods.prepare()
    result = run(data, cell["method"], cell["seed"])
    if cell["change"] != UNCHANGED:
        result["change"] = cell["change"]
    write_result(cell["path"], {**result, "command": cell["command"]})
    metrics, seconds = result["metrics"], result["seconds"]
    names = ("image_auroc", "pixel_auroc", "au_pro")
    figures = "  ".join(f"{name} {metrics[name]:.3f}" for name in names)
    return f"{figures}  fit {seconds['fit_cpu']} s of CPU"


# ------------------------------------------------------------------------ all runs


def cells(options: argparse.Namespace) -> list[Cell]:
    """One cell for each file that the command line asks for."""
    made = []
    for change in options.change:
        for method in options.methods:
            for category in options.categories:
                named = None if change == UNCHANGED else change
                path = peer_path(
                    options.out, category, method, options.seed, options.size, named
                )
                words = ["--categories", category, "--methods", method]
                words += ["--size", str(options.size), "--seed", str(options.seed)]
                words += ["--threads", str(options.threads)]
                words += [] if named is None else ["--change", change]
                command = f"python benchmarks/peers/run.py {shlex.join(words)}"
                made.append(
                    {
                        "category": category,
                        "method": method,
                        "change": change,
                        "seed": options.seed,
                        "size": options.size,
                        "threads": options.threads,
                        "roots": options.root,
                        "path": str(path),
                        "command": command,
                    }
                )
    return made


def run_apart(cell: Cell) -> tuple[str, bool]:
    """Run one cell in a process of its own: what to print, and whether it is there."""
    if Path(cell["path"]).exists():
        return "already there", True
    with subprocess.Popen(
        [sys.executable, __file__, "--cell", json.dumps(cell)],
        stdin=subprocess.PIPE,  # closed when this process ends: see `watch_parent`
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = process.stdout.read().strip().splitlines()
        code = process.wait()
    if code < 0:
        return f"killed by signal {-code}", False
    if code > 0:
        return "\n".join(lines[-15:]), False
    return lines[-1], True


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], allow_abbrev=False
    )
    add = made.add_argument
    add("--categories", nargs="+", default=["synthetic/nut"], metavar="NAME")
    names = list(methods.METHODS)
    add("--methods", nargs="+", default=names, choices=names, metavar="NAME")
    add("--root", nargs="+", default=[], help="folders that hold mvtec/NAME as NAME")
    changes = [UNCHANGED, *CHANGES]
    add("--change", nargs="+", default=[UNCHANGED], choices=changes)
    add("--size", type=int, default=256, help="side of the images in px")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--out", type=Path, help="folder of the files (default: below results/)")
    add("--cell", help=argparse.SUPPRESS)  # one cell as JSON: what `run_apart` starts
    return made


def main() -> int:
    """Run what is missing; 1 if a run failed, else 0."""
    options = parser().parse_args()
    if options.cell is not None:
        watch_parent()
        print(run_here(json.loads(options.cell)))
        return 0
    options.out = options.out or ROOT / "results" / peers_name(options.size)
    try:
        check_writable(options.out, "--out")
    except ValueError as error:
        parser().error(str(error))
    failed = 0
    for cell in cells(options):
        words, ok = run_apart(cell)
        change = "" if cell["change"] == UNCHANGED else f" {cell['change']}"
        print(f"{slug(cell['category'])} {cell['method']}{change}: {words}", flush=True)
        failed += not ok
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
