"""Measure detectors and baselines the same way: categories x methods x seeds.

One result is one JSON file, written whole or not at all; a second run of the same
command skips what is there. Chapter 12 and the status page read these files, through
`ebmbook.results`. How the cells of a sweep run is the business of `ebmlib.sweep`.

    python -m ebmlib.benchmark --categories synthetic/nut --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import importlib.metadata
import inspect
import json
import os
import platform
import resource
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor

from ebmlib.backbone import RANDOM, weights_label
from ebmlib.baselines import BASELINES
from ebmlib.data import Category, load
from ebmlib.data.mvtec_layout import LayoutError, categories_in
from ebmlib.data.synthetic import CATEGORIES
from ebmlib.detector import EnergyDetector
from ebmlib.metrics import au_pro, bootstrap_interval, image_auroc, pixel_auroc
from ebmlib.recipes import RECIPES
from ebmlib.scoring import image_score
from ebmlib.sweep import Cell, sweep, watch_parent, write_result

# What is measured by default: nothing that needs a file from elsewhere.
METHODS = (*BASELINES, *(name for name in RECIPES if name != "backbone"))
ALIGNED = {"yes": True, "no": False, "auto": None}

# ------------------------------------------------------------------------ one result


def fit(
    method: str,
    images: Tensor,
    seed: int = 0,
    *,
    aligned: bool | None = None,
    **settings: Any,
) -> Any:
    """Everything that is learned or chosen: it sees training images and nothing else.

    Args:
        method: a baseline's name or a recipe's.
        images: the normal training images `(N, C, H, W)`.
        seed: of the fit; baselines without randomness ignore it.
        aligned: does position mean something? None lets the detector decide, from the
            training images, by `ebmlib.view.pose.choose_layout`.
        **settings: options of `ebmlib.detector.EnergyDetector`; a baseline takes
            those that it knows.

    Raises:
        ValueError: an unknown method.
    """
    if method in BASELINES:
        options = accepted(method, {"seed": seed, **settings})
        return BASELINES[method](**options).fit(images)
    if method not in RECIPES:
        known = (*BASELINES, *RECIPES)
        raise ValueError(f"method must be one of {known}, got {method!r}")
    aligned = "auto" if aligned is None else aligned
    size = images.shape[-1]
    return EnergyDetector(method, size, seed=seed, aligned=aligned, **settings).fit(
        images
    )


def accepted(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a method takes: all, or those that the baseline knows.

    Only "backbone" has weights, and no steps.
    """
    if method not in BASELINES:
        other = "steps" if method == "backbone" else "weights"
        return {name: value for name, value in settings.items() if name != other}
    known = inspect.signature(BASELINES[method]).parameters
    return {name: value for name, value in settings.items() if name in known}


def run(
    category: Category,
    method: str,
    seed: int = 0,
    *,
    aligned: bool | None = None,
    save: Path | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Fit one method on a category's normal images and score its test images once.

    Arguments as in `fit`; a detector is kept as the file `save`, if that is given.

    Returns:
        A JSON-able result: metrics with 95 % bootstrap intervals, the AUROC of every
        image score, the scores of every test image, seconds, peak memory, versions,
        hardware.
    """
    start = time.perf_counter()
    model = fit(method, category.train, seed, aligned=aligned, **settings)
    fitted = time.perf_counter()
    if save is not None and isinstance(model, EnergyDetector):
        save.parent.mkdir(parents=True, exist_ok=True)
        model.save(save)
    scores, maps = image_scores(model, category.test), model.anomaly_map(category.test)
    done = time.perf_counter()
    single = single_maps(model, category.test)
    scores |= {f"{name}_max": image_score(one) for name, one in single.items()}
    metrics = measure(scores, maps, category)
    if single:
        metrics["maps"] = {name: measure_map(m, category) for name, m in single.items()}
    return {
        "category": category.name,
        "method": method,
        "seed": seed,
        "image_size": category.train.shape[-1],
        "settings": settings_of(model),
        "metrics": metrics,
        "images": {
            "labels": category.labels.int().tolist(),
            "kinds": category.kinds,
            "scores": {name: _digits(values) for name, values in scores.items()},
        },
        "vanished_masks": len(category.notes),
        "seconds": {"fit": round(fitted - start, 1), "test": round(done - fitted, 1)},
        "peak_memory_mb": round(peak_memory_mb()),
        "versions": versions(),
        "hardware": hardware(),
    }


def settings_of(model: Any) -> dict[str, Any]:
    """The constructor's arguments, with what `fit` chose for those left out."""
    if isinstance(model, EnergyDetector):
        return model.settings()
    return {
        name: getattr(model, name) for name in inspect.signature(type(model)).parameters
    }


def _digits(values: Tensor, digits: int = 6) -> list[float]:
    """Six significant digits: enough for every rank, and small files."""
    return [float(f"{value:.{digits}g}") for value in values.tolist()]


def image_scores(model: Any, images: Tensor) -> dict[str, Tensor]:
    """Every image score the model offers; `"score"` is the one it stands for."""
    scores = {"score": model.anomaly_score(images)}
    if isinstance(model, EnergyDetector):
        scores |= model.all_scores(images)
    return scores


def measure(
    scores: dict[str, Tensor], maps: Tensor, category: Category
) -> dict[str, Any]:
    """Image AUROC of every score, pixel AUROC and AU-PRO, each with its interval.

    Without masks there is nothing to measure a map by, and only the first remains.
    """
    labels, masks = np.asarray(category.labels), np.asarray(category.masks)
    result: dict[str, Any] = {"image_scores": {}}
    for name, values in scores.items():
        value, interval = _with_interval(image_auroc, labels, values.numpy(), labels)
        result["image_scores"][name] = {"image_auroc": value, "interval": interval}
    standing = result["image_scores"].pop("score")
    result["image_auroc"] = standing["image_auroc"]
    result["image_auroc_interval"] = standing["interval"]
    of_pixels = (("pixel_auroc", pixel_auroc), ("au_pro", au_pro))
    for name, metric in of_pixels if category.has_masks else ():
        value, interval = _with_interval(metric, labels, maps.numpy(), masks)
        result[name], result[f"{name}_interval"] = value, interval
    return result


def single_maps(model: Any, images: Tensor) -> dict[str, Tensor]:
    """The gradient map and the patch energies of a detector, each by itself.

    Before standardization; `{}` for a model without patches.
    """
    if not hasattr(getattr(model, "energy", None), "energy_map"):
        return {}
    return {name: model.raw_map(images, name) for name in ("gradient", "patches")}


def measure_map(maps: Tensor, category: Category) -> dict[str, float]:
    """What a map reaches by itself; its maximum is the image score."""
    found = {"image_auroc": round(image_auroc(image_score(maps), category.labels), 4)}
    if category.has_masks:
        found["pixel_auroc"] = round(pixel_auroc(maps, category.masks), 4)
        found["au_pro"] = round(au_pro(maps, category.masks), 4)
    return found


def _with_interval(metric, labels, *arrays) -> tuple[float, list[float]]:
    n = 1000 if arrays[0].ndim == 1 else 100  # pixel metrics are slow to resample
    low, high = bootstrap_interval(metric, *arrays, n=n, seed=0, stratify=labels)
    return round(float(metric(*arrays)), 4), [round(low, 4), round(high, 4)]


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, libraries included.

    A sweep gives every result a process of its own, so there it is that result's.
    """
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would include the process that started us
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 ** (2 if sys.platform == "darwin" else 1)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    names = ("ebmlib", "torch", "numpy", "scipy", "scikit-learn", "pillow")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    """What the run had: processor family, cores, threads, accelerator."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


# ------------------------------------------------------------------------ many results


def result_path(folder: Path, category: str, method: str, seed: int, size: int) -> Path:
    """File of one result, such as `mvtec-bottle_contrast_128px_seed0.json`."""
    return folder / f"{category.replace('/', '-')}_{method}_{size}px_seed{seed}.json"


def expand(names: list[str], root: str | None) -> list[str]:
    """Categories by name, each once; `mvtec/*` stands for all that `root` holds.

    Raises:
        ValueError: no root for `mvtec/*`, or no category there.
    """
    found = []
    for name in names:
        if name == "synthetic/*":
            found += [f"synthetic/{one}" for one in CATEGORIES]
        elif name == "mvtec/*":
            if not root:
                raise ValueError("mvtec/* needs --root or the variable MVTEC_ROOT")
            if not Path(root).is_dir() or not categories_in(root):
                raise LayoutError(
                    f"{root}: no category here (a folder with train/good)"
                )
            found += [f"mvtec/{one}" for one in categories_in(root)]
        else:
            found.append(name)
    return list(dict.fromkeys(found))


def cells(options: argparse.Namespace, command: str) -> list[Cell]:
    """One cell for every file that the command line asks for.

    Raises:
        FileNotFoundError: no file of weights.
        ValueError: a file of that name was made with other settings, or weights are
            given that no method asks for.
    """
    root = options.root or os.environ.get("MVTEC_ROOT")
    settings = {} if options.steps is None else {"steps": options.steps}
    if options.weights is not None:
        if "backbone" not in options.methods:
            raise ValueError("--weights is for --methods backbone")
        weights_label(options.weights)  # a missing file is refused now
        settings["weights"] = str(options.weights.resolve())
    save = options.save and options.save.resolve()
    threads = options.threads
    if threads is None and options.dask is None:
        threads = max(1, joblib.cpu_count() // options.jobs)
    made = []
    for category in expand(options.categories, root):
        for method in options.methods:
            seeded = bool(accepted(method, {"seed": 0}))
            for seed in options.seeds if seeded else options.seeds[:1]:
                name = (category, method, seed, options.size)
                path = result_path(options.out.resolve(), *name)
                cell = {
                    **dict(
                        zip(("category", "method", "seed", "size"), name, strict=True)
                    ),
                    "settings": accepted(method, settings),
                    "aligned": ALIGNED[options.aligned],
                    "root": root and str(Path(root).resolve()),
                    "threads": threads,
                    "path": str(path),
                    "save": save and str(save / f"{path.stem}.safetensors"),
                    "command": command,
                }
                if path.exists():
                    _check_same_settings(path, cell)
                made.append(cell)
    return made


def _check_same_settings(path: Path, cell: Cell) -> None:
    """Refuse to pass off a result of other settings as the one asked for."""
    made, asked = json.loads(path.read_text())["settings"], dict(cell["settings"])
    if cell["method"] in RECIPES and cell["aligned"] is not None:
        asked["aligned"] = cell["aligned"]
    if cell["method"] == "backbone":
        file = asked.get("weights")
        asked["weights"] = weights_label(file) if file else RANDOM
    other = {k: made.get(k) for k, v in asked.items() if made.get(k) != v}
    if other:
        raise ValueError(
            f"{path} was made with {other}, not with {asked}; "
            "choose another --out, or delete the file"
        )


def run_here(cell: Cell) -> str:
    """Run one cell in this process and write its file; the line to print about it."""
    if cell["threads"] is not None:
        torch.set_num_threads(cell["threads"])
    data = load(cell["category"], size=cell["size"], root=cell["root"])
    result = run(
        data,
        cell["method"],
        cell["seed"],
        aligned=cell["aligned"],
        save=cell["save"] and Path(cell["save"]),
        **cell["settings"],
    )
    write_result(Path(cell["path"]), {**result, "command": cell["command"]})
    metrics = result["metrics"]
    names = ("image_auroc", "pixel_auroc", "au_pro")
    known = [name for name in names if name in metrics]
    figures = "  ".join(f"{name} {metrics[name]:.3f}" for name in known)
    return f"{figures}  ({result['seconds']['fit']:.0f} s)"


EXAMPLES = """
what it does:
  Every method learns from the normal training images of a category; its test images are
  scored once, at the end. For every category, method and seed one file is written to
  --out, such as mvtec-bottle_contrast_128px_seed0.json. It holds the metrics with 95 %
  bootstrap intervals, the scores of every test image, settings, seconds, peak memory,
  versions, hardware and this command. A method without randomness runs once.

to resume:
  Repeat the command. What is there is skipped; what was interrupted starts again; a
  file made with other settings is refused. A failed result does not stop the others.

examples:
  one drawn category, every method, no files needed:
    python -m ebmlib.benchmark --categories synthetic/nut
  all fifteen categories of MVTec AD (or those that are there), three seeds:
    python -m ebmlib.benchmark --categories 'mvtec/*' --root /data/mvtec_ad
  your own images, laid out as in MVTec AD (/data/parts/castings/train/good, test/good,
  test/<defect>, ground_truth/<defect>), one energy with the trivial rows beside it
  (without ground_truth/ only image AUROC is measured):
    python -m ebmlib.benchmark --root /data/parts --categories mvtec/castings \\
        --methods brightness per_pixel_gaussian pca experts --size 128
  the same on a Dask cluster, whose workers see the same folders:
    dask scheduler                       # on one machine
    dask worker tcp://HOST:8786          # on every machine
    python -m ebmlib.benchmark --categories 'mvtec/*' --root /data/mvtec_ad \\
        --dask tcp://HOST:8786
  Gaussians on the features of a ResNet, whose weights file you have:
    python -m ebmlib.benchmark --methods backbone --weights resnet18.pth

methods:
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = {name: build.label for name, build in BASELINES.items()}
    names |= {name: build.__doc__.split("\n")[0] for name, build in RECIPES.items()}
    listed = "\n".join(f"  {name:<24}{label}" for name, label in names.items())
    made = argparse.ArgumentParser(
        prog="python -m ebmlib.benchmark",
        description=__doc__.split("\n")[0],
        epilog=EXAMPLES + listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # `_without_folders` knows flags by their whole names
    )
    add = made.add_argument
    add(
        "--categories",
        nargs="+",
        default=["synthetic/nut"],
        metavar="NAME",
        help="synthetic/NAME is drawn, mvtec/NAME is the folder NAME under --root; "
        "'mvtec/*' and 'synthetic/*' are all of them (default: synthetic/nut)",
    )
    add(
        "--methods",
        nargs="+",
        default=list(METHODS),
        choices=(*BASELINES, *RECIPES),
        metavar="NAME",
        help="see below (default: all but backbone)",
    )
    add(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1, 2],
        metavar="N",
        help="(default: 0 1 2)",
    )
    add("--size", type=int, default=128, help="side of images in px (default: 128)")
    add("--steps", type=int, help="training steps (default: the method's own)")
    add(
        "--aligned",
        choices=ALIGNED,
        default="auto",
        help="do objects always lie in the same place? auto asks the training images, "
        "see ebmlib.view.pose (default: auto)",
    )
    add(
        "--weights",
        type=Path,
        metavar="FILE",
        help="of a torchvision ResNet, .pth or .safetensors, for the method backbone "
        "(default: random weights, and the tables say so)",
    )
    add("--root", help="folder of the categories (default: the variable MVTEC_ROOT)")
    add(
        "--out",
        type=Path,
        default=Path("results"),
        help="folder of the results (default: results)",
    )
    add(
        "--save",
        type=Path,
        metavar="FOLDER",
        help="keep the fitted detectors here too, for EnergyDetector.load",
    )
    add("--jobs", type=int, default=1, help="results at a time (default: 1)")
    add(
        "--threads",
        type=int,
        help="CPU threads of each result; another number may change the last digits "
        "(default: cores / jobs; on a cluster, what the worker's environment says)",
    )
    add("--dask", metavar="ADDRESS", help="run on the workers of this Dask scheduler")
    add("--cell", help=argparse.SUPPRESS)  # one cell as JSON: what a sweep starts
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the sweep that the command line asks for; 1 if a result failed, else 0.

    Raises:
        SystemExit: 2 and one line about what is wrong with the command line.
    """
    command_line = parser()
    options = command_line.parse_args(arguments)
    if options.cell is not None:
        watch_parent()
        print(run_here(json.loads(options.cell)))
        return 0
    words = sys.argv[1:] if arguments is None else arguments
    command = "python -m ebmlib.benchmark " + shlex.join(_without_folders(words))
    failed = 0
    try:
        asked = cells(options, command)
        for outcome in sweep(asked, jobs=options.jobs, dask=options.dask):
            print(outcome, flush=True)
            failed += not outcome.ok
    except (ValueError, OSError) as error:  # what a cell raises is its outcome
        command_line.error(str(error))
    if failed:
        print(f"{failed} of {len(asked)} failed; the same command tries them again")
    return min(failed, 1)


def _without_folders(words: list[str]) -> list[str]:
    """Leave the reader's own folders and machines out of the recorded command."""
    private = ("--root", "--out", "--save", "--dask", "--weights")
    kept = []
    for before, word in zip(["", *words], words, strict=False):
        if before not in private and word.split("=")[0] not in private:
            kept.append(word)
    return kept


if __name__ == "__main__":
    sys.exit(main())
