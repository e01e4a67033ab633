"""Methods of other packages, and ours, on one set of images and by one set of metrics.

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
from typing import Any, NamedTuple

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


class Fitted(NamedTuple):
    """A method that has learned, from what, and how long that took."""

    method: str
    seed: int
    peer: methods.Peer
    train: Tensor
    seconds: float
    cpu_seconds: float


def fit(train: Tensor, method: str, seed: int) -> Fitted:
    """A new peer of that name, fitted."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # anomalib draws from it too
    peer = methods.METHODS[method](train.shape[-1])
    start, start_cpu = time.perf_counter(), time.process_time()
    peer.fit(train)
    passed, worked = time.perf_counter() - start, time.process_time() - start_cpu
    return Fitted(method, seed, peer, train, passed, worked)


def run(fitted: Fitted, data: Category, change: str) -> dict[str, Any]:
    """Score every test image once, and measure the answer.

    Returns:
        A JSON-able result with the entries of `ebmlib.benchmark.run` and "package";
        with "change" if the images are changed, else with "own_metrics" and
        "au_pro_seconds". Seconds with "cpu" in their names count what the processor
        worked for this process, all others the time that passed.
    """
    peer = fitted.peer
    start, start_cpu = time.perf_counter(), time.process_time()
    scores, maps = peer.answer(data.test)
    passed, worked = time.perf_counter() - start, time.process_time() - start_cpu
    memory = benchmark.peak_memory_mb()
    answer = benchmark.Answer({"score": scores}, maps, {})
    result = {
        "category": data.name,
        "package": peer.package,
        "method": fitted.method,
        "seed": fitted.seed,
        "image_size": data.train.shape[-1],
        "settings": peer.settings,
        "metrics": benchmark.measure(answer, data),
        "images": {
            "train": len(data.train),
            "labels": data.labels.int().tolist(),
            "kinds": data.kinds,
            "scores": {"score": [float(f"{score:.6g}") for score in scores.tolist()]},
        },
        "vanished_masks": len(data.notes),
        "seconds": {
            "fit": round(fitted.seconds, 1),
            "test": round(passed, 1),
            "fit_cpu": round(fitted.cpu_seconds, 1),
            "test_cpu": round(worked, 1),
            "per_test_image_cpu": round(worked / len(data.test), 4),
        },
        "peak_memory_mb": None if memory is None else round(memory),
        "versions": benchmark.versions() | methods.versions(),
        "hardware": benchmark.hardware(),
        "environment": {n: os.environ[n] for n in ALLOCATOR if n in os.environ},
        "date": benchmark.today(),
    }
    if change != UNCHANGED:
        return {**result, "change": change}
    own, own_seconds = compared(scores, maps, data)
    return {**result, "own_metrics": own, "au_pro_seconds": own_seconds}


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


def run_here(cell: Cell) -> None:
    """Run one method on one category in this process, and write what is missing.

    Changes that leave the training images as they are share one fit.
    """
    torch.set_num_threads(cell["threads"])
    plain = read(cell["category"], cell["size"], cell["roots"])
    methods.prepare()
    fitted: Fitted | None = None
    for change, path in cell["paths"].items():
        words = f"{slug(cell['category'])} {cell['method']} {change}"
        if Path(path).exists():
            print(f"{words}: already there", flush=True)
            continue
        data = plain if change == UNCHANGED else CHANGES[change](plain)
        if fitted is None or fitted.train is not data.train:
            fitted = fit(data.train, cell["method"], cell["seed"])
        result = run(fitted, data, change)
        write_result(path, {**result, "command": cell["command"]})
        metrics, seconds = result["metrics"], result["seconds"]
        names = ("image_auroc", "pixel_auroc", "au_pro")
        figures = "  ".join(f"{name} {metrics[name]:.3f}" for name in names)
        print(f"{words}: {figures}  fit {seconds['fit_cpu']} s of CPU", flush=True)


# ------------------------------------------------------------------------ all runs


def cells(options: argparse.Namespace) -> list[Cell]:
    """One cell for each method and category, with a file for each change."""
    made = []
    for method in options.methods:
        for category in options.categories:
            of = (options.out, category, method, options.seed, options.size)
            paths = {
                change: str(peer_path(*of, None if change == UNCHANGED else change))
                for change in options.change
            }
            words = ["--categories", category, "--methods", method]
            words += ["--size", str(options.size), "--seed", str(options.seed)]
            words += ["--threads", str(options.threads)]
            if options.change != [UNCHANGED]:
                words += ["--change", *options.change]
            made.append(
                {
                    "category": category,
                    "method": method,
                    "paths": paths,
                    "seed": options.seed,
                    "size": options.size,
                    "threads": options.threads,
                    "roots": options.root,
                    "command": f"python benchmarks/peers/run.py {shlex.join(words)}",
                }
            )
    return made


def run_apart(cell: Cell) -> bool:
    """Run one cell in a process of its own, which says what it does; False: it failed.

    What is there already is not run, and needs no process.
    """
    if all(Path(path).exists() for path in cell["paths"].values()):
        print(f"{slug(cell['category'])} {cell['method']}: already there", flush=True)
        return True
    with subprocess.Popen(
        [sys.executable, __file__, "--cell", json.dumps(cell)],
        stdin=subprocess.PIPE,  # closed when this process ends: see `watch_parent`
    ) as process:
        code = process.wait()
    if code < 0:
        print(f"{cell['category']} {cell['method']}: killed by signal {-code}")
    return code == 0


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
        run_here(json.loads(options.cell))
        return 0
    options.out = options.out or ROOT / "results" / peers_name(options.size)
    try:
        check_writable(options.out, "--out")
    except ValueError as error:
        parser().error(str(error))
    done = [run_apart(cell) for cell in cells(options)]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
