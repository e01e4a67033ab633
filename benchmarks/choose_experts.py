r"""Choose the second expert and its map, on training images alone (chapter 12).

    python benchmarks/choose_experts.py NETWORKS --categories mvtec/bottle mvtec/screw
    python benchmarks/choose_experts.py NETWORKS --size 128 --steps 3000 \
        --categories synthetic/nut synthetic/bolt synthetic/weave

For every category, a third of the *training* images is held out. Half of it stays as it
is, the rest is damaged by `ebmlib.data.damage`, three times each, with masks filled
and rounded as a person draws them: a mock exam. `thorough_experts` learns from the
other two thirds (the folder NETWORKS keeps the fitted detectors, so that the command
can be repeated), then every candidate is scored. The rule was written down first: the
highest mean over categories, and over image AUROC, pixel AUROC and AU-PRO, wins.
Writes results/choice_experts.json; categories that it holds already stay, and count.
No test image is touched.
"""

import argparse
import itertools
import json
import os
import shlex
from pathlib import Path

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
from ebmlib.experts import ProductOfExperts
from ebmlib.metrics import au_pro, image_auroc, pixel_auroc
from ebmlib.scoring import gradient_map, image_score, patch_map
from ebmlib.sweep import write_result

ROOT = Path(__file__).resolve().parents[1]
SIDES = (1.5, 2.0, 2.5)  # of a patch, in cells of the grid
NOISES = (0.02, 0.03, 0.05)  # gray levels that every pixel is granted
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the gradient in the map
MOST_HELD = 90  # training images that are held out
SIDE = 128  # px of the maps on which pixels are counted
STANDING_METHOD = "thorough_experts"
STANDING = {"cells": 2.5, "noise": 0.02, "share": 0.25}  # what the recipe has
RULE = "highest mean over categories and over the three measures"
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


def rows_of(detector: EnergyDetector, exam: Category) -> list[dict]:
    """The three figures of every candidate, on one category."""
    network = detector.energy.network
    view = ExamView(detector, exam)
    rows = []
    for cells, noise in itertools.product(SIDES, NOISES):
        product = ProductOfExperts.of(
            network,
            view.normal,
            everywhere=not detector.aligned,
            side=round(cells * network.stride),
            noise=noise,
        )
        gradient, patches = view.maps(product)
        for share in SHARES:
            candidate = {"cells": cells, "noise": noise, "share": share}
            figures = view.mark(gradient**share * patches ** (1 - share))
            rows.append({**candidate, **figures})
    return rows


def detector_of(
    folder: Path,
    exam: Category,
    size: int,
    steps: int,
    seed: int = 0,
    method: str = STANDING_METHOD,
) -> EnergyDetector:
    """A detector fitted on the exam's training images; the folder keeps it."""
    stem = f"{exam.name.replace('/', '-')}_{size}px_{steps}"
    stem += f"_seed{seed}" if seed else ""
    stem += f"_{method}" if method != STANDING_METHOD else ""
    file = folder / f"{stem}.safetensors"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        benchmark.fit(method, exam.train, seed, steps=steps).save(file)
    return EnergyDetector.load(file, device="cpu")


def ranking(categories: list[list[dict]]) -> list[dict]:
    """Candidates by the rule, the best first."""
    ranked = []
    for rows in zip(*categories, strict=True):
        mean = float(np.mean([[row[key] for key in METRICS] for row in rows]))
        candidate = {k: rows[0][k] for k in ("cells", "noise", "share")}
        ranked.append({**candidate, "mean": round(mean, 4)})
    return sorted(ranked, key=lambda row: -row["mean"])


def main() -> None:
    """Fit where it is missing, score, rank, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", type=Path, help="folder of the fitted detectors")
    parser.add_argument("--categories", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--root", default=os.environ.get("MVTEC_ROOT"))
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = options.out / "choice_experts.json"
    made = {"what": __doc__.splitlines()[0], "rule": RULE, "categories": {}}
    if path.exists():
        made["categories"] = json.loads(path.read_text())["categories"]
    for name in options.categories:
        if f"{name}, {options.size} px" in made["categories"]:
            continue
        train = load(name, size=options.size, root=options.root).train
        exam = mock_exam(train, name)
        detector = detector_of(options.networks, exam, options.size, options.steps)
        words = ["NETWORKS", "--categories", name, "--size", str(options.size)]
        words += ["--steps", str(options.steps)]
        rows = rows_of(detector, exam)
        made["categories"][f"{name}, {options.size} px"] = {
            "steps": options.steps,
            "command": f"python benchmarks/choose_experts.py {shlex.join(words)}",
            "rows": rows,
        }
        print(name, *ranking([rows])[:3], sep="\n", flush=True)
    found = [one["rows"] for one in made["categories"].values()]
    made["ranking"], made["standing"] = ranking(found), STANDING
    made |= {"versions": versions(), "hardware": hardware()}
    write_result(path, made)
    for row in made["ranking"][:10]:
        print(row)


if __name__ == "__main__":
    main()
