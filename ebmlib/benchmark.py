"""Measure detectors and trivial baselines the same way: categories x methods x seeds.

One result is one JSON file, written whole or not at all; a second run of the same
command skips what is there.  Chapter 12 and the status page read these files.

    python -m ebmlib.benchmark --categories synthetic/nut --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from ebmlib.baselines import (
    MeanBrightness,
    PatchKNN,
    PCAReconstruction,
    PerPixelGaussian,
)
from ebmlib.data import Category, load
from ebmlib.detector import EnergyDetector
from ebmlib.metrics import au_pro, bootstrap_interval, image_auroc, pixel_auroc
from ebmlib.recipes import RECIPES
from ebmlib.scoring import gradient_map, image_score, patch_map

BASELINES: dict[str, Callable[[], Any]] = {
    "brightness": MeanBrightness,
    "per_pixel_gaussian": PerPixelGaussian,
    "pca": PCAReconstruction,
    "patch_knn": PatchKNN,
}
METHODS = (*BASELINES, *RECIPES)


def run(category: Category, method: str, seed: int, **settings: Any) -> dict[str, Any]:
    """Fit one method on a category's normal images and score its test images once.

    Args:
        category: the images, already at the wanted size.
        method: a baseline's name or a recipe's.
        seed: of the fit; baselines without randomness ignore it.
        **settings: options of `ebmlib.detector.EnergyDetector`.

    Returns:
        A JSON-able result: metrics with 95 % bootstrap intervals, the AUROC of every
        image score, seconds, peak memory, versions, hardware.
    """
    size = category.train.shape[-1]
    start = time.perf_counter()
    if method in BASELINES:
        model, settings = BASELINES[method]().fit(category.train), {}
    else:
        settings = {"aligned": is_aligned(category.name), **settings}
        model = EnergyDetector(method, size, seed=seed, **settings).fit(category.train)
    fitted = time.perf_counter()
    scores, maps = image_scores(model, category.test), model.anomaly_map(category.test)
    done = time.perf_counter()
    return {
        "category": category.name,
        "method": method,
        "seed": seed,
        "image_size": size,
        "settings": settings if method in BASELINES else model.settings(),
        "metrics": measure(scores, maps, category) | single_maps(model, category),
        "seconds": {"fit": round(fitted - start, 1), "test": round(done - fitted, 1)},
        "peak_memory_mb": round(_peak_memory_mb()),
        "versions": versions(),
        "hardware": hardware(),
    }


def is_aligned(name: str) -> bool:
    """False for textures and for objects photographed in any direction.

    A property of the product, known before any image is scored.
    """
    turned = {"bolt", "screw", "hazelnut", "metal_nut"}
    textures = {"weave", "carpet", "grid", "leather", "tile", "wood"}
    return name.split("/")[-1] not in turned | textures


def image_scores(model: Any, images: Tensor) -> dict[str, Tensor]:
    """Every image score the model offers; `"score"` is the one it stands for."""
    scores = {"score": model.anomaly_score(images)}
    if isinstance(model, EnergyDetector):
        scores |= model.all_scores(images)
    return scores


def measure(
    scores: dict[str, Tensor], maps: Tensor, category: Category
) -> dict[str, Any]:
    """Image AUROC of every score, pixel AUROC and AU-PRO, each with its interval."""
    labels, masks = np.asarray(category.labels), np.asarray(category.masks)
    result: dict[str, Any] = {"image_scores": {}}
    for name, values in scores.items():
        value, interval = _with_interval(image_auroc, labels, values.numpy(), labels)
        result["image_scores"][name] = {"image_auroc": value, "interval": interval}
    standing = result["image_scores"].pop("score")
    result["image_auroc"] = standing["image_auroc"]
    result["image_auroc_interval"] = standing["interval"]
    for name, metric in (("pixel_auroc", pixel_auroc), ("au_pro", au_pro)):
        value, interval = _with_interval(metric, labels, maps.numpy(), masks)
        result[name], result[f"{name}_interval"] = value, interval
    return result


def single_maps(model: Any, category: Category) -> dict[str, Any]:
    """What the gradient map and the patch energies of a detector reach alone."""
    if not hasattr(getattr(model, "energy", None), "energy_map"):
        return {}
    result = {}
    for name, build in (("gradient", gradient_map), ("patches", patch_map)):
        images = category.test.to(model.device)
        maps = build(model.energy, images, smoothing=model.smoothing)
        result[name] = {
            "image_auroc": round(image_auroc(image_score(maps), category.labels), 4),
            "pixel_auroc": round(pixel_auroc(maps, category.masks), 4),
            "au_pro": round(au_pro(maps, category.masks), 4),
        }
    return {"maps": result}


def _with_interval(metric, labels, *arrays) -> tuple[float, list[float]]:
    n = 1000 if arrays[0].ndim == 1 else 100  # pixel metrics are slow to resample
    low, high = bootstrap_interval(metric, *arrays, n=n, seed=0, stratify=labels)
    return round(float(metric(*arrays)), 4), [round(low, 4), round(high, 4)]


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (
        peak
        / (1 if sys.platform == "darwin" else 1024)
        / 1024 ** (sys.platform == "darwin")
    )


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


def result_path(folder: Path, category: str, method: str, seed: int, size: int) -> Path:
    """File of one result, such as `mvtec-bottle_contrast_128px_seed0.json`."""
    return folder / f"{category.replace('/', '-')}_{method}_{size}px_seed{seed}.json"


def _cell(category, method, seed, size, root, folder, command, settings) -> str:
    """Run one cell of the sweep and write its file, unless it is there already."""
    path = result_path(folder, category, method, seed, size)
    if path.exists():
        _check_same_settings(path, settings)
        return f"{path.name}: already there"
    data = load(category, size=size, root=root)
    result = {**run(data, method, seed, **settings), "command": command}
    temporary = path.with_suffix(f".{os.getpid()}.part")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, path)
    metrics = result["metrics"]
    return f"{path.name}: " + "  ".join(
        f"{k} {metrics[k]:.3f}" for k in ("image_auroc", "pixel_auroc", "au_pro")
    )


def _check_same_settings(path: Path, settings: dict[str, Any]) -> None:
    """Refuse to pass off a result of other settings as the one asked for."""
    made = json.loads(path.read_text())["settings"]
    other = {k: made.get(k) for k, v in settings.items() if made.get(k) != v}
    if other:
        raise ValueError(
            f"{path} was made with {other}, not with {settings}; "
            "choose another --out, or delete the file"
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the sweep that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m ebmlib.benchmark", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--categories",
        nargs="+",
        default=["synthetic/nut"],
        help="such as synthetic/nut mvtec/bottle mvtec/screw",
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--size", type=int, default=128, help="side of images in pixels"
    )
    parser.add_argument("--steps", type=int, help="training steps, else the recipe's")
    parser.add_argument("--root", help="folder of MVTec AD, else MVTEC_ROOT")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--jobs", type=int, default=1, help="results at a time")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    words = sys.argv[1:] if arguments is None else arguments
    command = "python -m ebmlib.benchmark " + shlex.join(_without_root(words))
    settings = {} if options.steps is None else {"steps": options.steps}
    cells = (
        delayed(_cell)(
            category,
            method,
            seed,
            options.size,
            options.root,
            options.out,
            command,
            {} if method in BASELINES else settings,
        )
        for category in options.categories
        for method in options.methods
        for seed in options.seeds
        if method not in BASELINES or seed == options.seeds[0]
    )
    for line in Parallel(n_jobs=options.jobs, return_as="generator")(cells):
        print(line, flush=True)


def _without_root(words: list[str]) -> list[str]:
    """Leave the reader's own folder out of the recorded command."""
    kept = list(words)
    for flag in ("--root", "--out"):
        if flag in kept:
            at = kept.index(flag)
            del kept[at : at + 2]
    return kept


if __name__ == "__main__":
    main()
