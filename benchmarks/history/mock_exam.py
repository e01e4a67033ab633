"""Mock exams: what can be asked of training images alone (chapter 12).

A third of a category's *training* images is held out. Half of it stays as it is, the
rest is damaged by `ebmlib.data.damage`, three times each, with masks filled and
rounded as a person draws them. A detector learns from the other two thirds and is
marked on the held-out third. No test image is touched. `choose_experts.py`,
`choose_registered.py`, `try_experts.py`, `try_maps.py`, `try_registration.py` and
`try_share.py` ask the questions.
"""

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ebmlib import benchmark
from ebmlib.benchmark import hardware, versions
from ebmlib.data import Category, load
from ebmlib.data.corruption import damage
from ebmlib.data.resizing import resize_mask
from ebmlib.detector import EnergyDetector
from ebmlib.metrics import au_pro, image_auroc, pixel_auroc
from ebmlib.scoring import gradient_map, image_score, patch_map
from ebmlib.sweep import write_result

ROOT = Path(__file__).resolve().parents[1]
MOST_HELD = 90  # training images that are held out
SIDE = 128  # px of the maps on which pixels are counted
STANDING_METHOD = "thorough_experts"
STANDING = {"cells": 2.5, "noise": 0.02, "share": 0.25}  # what the recipe has
METRICS = ("image_auroc", "pixel_auroc", "au_pro")


def mock_exam(train: Tensor, name: str, draws: int = 3, seed: int = 77) -> Category:
    """Two thirds to learn from; of the rest, half as it is, half damaged `draws` times.

    `train` is all it ever sees: (N, C, H, W), normal.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train), generator=generator)
    count = min(len(train) // 3, MOST_HELD)
    held, kept = train[order[:count]], train[order[count:]]
    normal, other = (
        held[: len(held) // 2],
        held[len(held) // 2 :].repeat(draws, 1, 1, 1),
    )
    parts = [damage(image[None], generator) for image in other]
    masks = np.stack([as_drawn(mask[0].numpy()) for _, mask in parts])
    test = torch.cat([normal, *(image for image, _ in parts)])
    labels = torch.arange(len(test)) >= len(normal)
    empty = torch.zeros(len(normal), *masks.shape[1:], dtype=torch.bool)
    masks = torch.cat([empty, torch.from_numpy(masks)])
    kinds = ["damaged" if label else "good" for label in labels]
    return Category(name, kept, test, labels, masks, kinds)


def as_drawn(mask: np.ndarray) -> np.ndarray:
    """Gaps closed, holes filled, hairs shaved: what a person would mark."""
    radius = max(2, mask.shape[0] // 64)
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = rows**2 + columns**2 <= radius**2
    closed = ndimage.binary_closing(np.pad(mask, radius), disk)
    filled = ndimage.binary_fill_holes(closed)[radius:-radius, radius:-radius]
    shaved = ndimage.binary_opening(filled, disk[::2, ::2])
    return shaved if shaved.any() else filled


class ExamView:
    """What a detector's energy sees of a mock exam, and how a map is marked."""

    def __init__(self, detector: EnergyDetector, exam: Category):
        self.detector, self.exam = detector, exam
        fitted = detector._split(exam.train)[0]
        self.normal = torch.cat([detector._view(x)[0] for x in fitted.split(32)])
        seen = [detector._view(x) for x in exam.test.split(32)]
        self.test = torch.cat([view for view, _ in seen])
        poses = [pose for _, pose in seen]
        self.poses = None if poses[0] is None else torch.cat(poses)
        masks = [resize_mask(m, SIDE)[0] for m in exam.masks.numpy()]
        self.masks = np.stack(masks)

    def maps(self, energy: nn.Module) -> tuple[Tensor, Tensor]:
        """The gradient map, and that of log(1 + e_p), both (N, H, W)."""
        smoothing = self.detector.smoothing
        gradient = gradient_map(energy, self.test, smoothing=smoothing)
        patches = patch_map(energy, self.test, smoothing=smoothing, compress=True)
        return gradient, patches.clamp_min(0)

    def marks(self, energy: nn.Module) -> dict[str, float]:
        """The three figures of an energy, read as the recipe reads it."""
        gradient, patches = self.maps(energy)
        part = STANDING["share"]
        return self.mark(gradient**part * patches ** (1 - part))

    def mark(self, maps: Tensor) -> dict[str, float]:
        """The three figures of a map; its maximum is the image score."""
        low = float(maps.min())
        whole = self.detector._put_back(maps, self.poses, self.exam.test, outside=low)
        if whole.shape[-1] != SIDE:
            whole = adaptive_avg_pool2d(whole[:, None], SIDE)[:, 0]
        figures = (
            image_auroc(image_score(maps, "max"), self.exam.labels),
            pixel_auroc(whole, self.masks),
            au_pro(whole, self.masks),
        )
        return dict(zip(METRICS, (round(float(f), 4) for f in figures), strict=True))


def detector_of(
    folder: Path,
    exam: Category,
    size: int,
    steps: int,
    seed: int = 0,
    method: str = STANDING_METHOD,
    label: str = "",
    **settings: Any,
) -> EnergyDetector:
    """A detector fitted on the exam's training images; the folder keeps it.

    Other settings than the method's need a label, which tells their files apart.
    """
    stem = f"{exam.name.replace('/', '-')}_{size}px_{steps}"
    stem += f"_seed{seed}" if seed else ""
    stem += f"_{method}" if method != STANDING_METHOD else ""
    stem += f"_{label}" if label else ""
    file = folder / f"{stem}.safetensors"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        benchmark.fit(method, exam.train, seed, steps=steps, **settings).save(file)
    return EnergyDetector.load(file, device="cpu")


# ------------------------------------------------------------------ the command line


def options_of(doc: str, **flags: str) -> argparse.Namespace:
    """What every script is asked; `flags` are its own, name and help."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("networks", type=Path, help="folder of the fitted detectors")
    parser.add_argument("--categories", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6000)
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--root", default=os.environ.get("MVTEC_ROOT"))
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def exam_of(name: str, options: argparse.Namespace, seed: int = 77) -> Category:
    """The mock exam of a category."""
    train = load(name, size=options.size, root=options.root).train
    return mock_exam(train, name, seed=seed)


class Record:
    """A file of results/ that grows by one category at a time; what it has stays."""

    def __init__(self, path: Path, doc: str):
        self.path, self.made = path, {"what": doc.splitlines()[0], "categories": {}}
        if path.exists():
            self.made["categories"] = json.loads(path.read_text())["categories"]

    def rows(self, name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
        """What is known of a category; nothing, if it is new."""
        found = self.made["categories"].get(f"{name}, {options.size} px", {})
        return found.get("rows", [])

    def missing(self, options: argparse.Namespace) -> list[str]:
        """The categories asked for of which nothing is known."""
        return [name for name in options.categories if not self.rows(name, options)]

    def keep(
        self, name: str, options: argparse.Namespace, rows: list, *flags: str
    ) -> None:
        """Put a category down, with the command that repeats it."""
        words = ["NETWORKS", "--categories", name, "--size", str(options.size)]
        words += ["--steps", str(options.steps), *flags]
        script = {"choice": "choose", "tried": "try"}
        kind, what = self.path.stem.split("_")
        command = f"python benchmarks/{script[kind]}_{what}.py {shlex.join(words)}"
        entry = {"steps": options.steps, "command": command, "rows": rows}
        self.made["categories"][f"{name}, {options.size} px"] = entry

    def write(self, **more: Any) -> None:
        """Write the file, whole or not at all."""
        self.made |= more | {"versions": versions(), "hardware": hardware()}
        write_result(self.path, self.made)
