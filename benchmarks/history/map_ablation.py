r"""What each step of the map adds, on fitted detectors (chapters 10 and 12).

    python -m ebmlib.benchmark --categories mvtec/bottle mvtec/screw \
        --methods thorough_experts --size 256 --jobs 2 --save DETECTORS
    python benchmarks/map_ablation.py DETECTORS --categories mvtec/bottle mvtec/screw

Writes results/ablation_mvtec-bottle_256px.json and so on. Every row changes one thing
of the standing map: the expert that is asked, the map that is read, how the gradient is
processed, how the map becomes one number. A row holds the mean over seeds, and its
difference to the standing map with a 95 % interval: a paired bootstrap in which all
seeds and both maps see the same resampled test images. Pixel measures are taken on maps
averaged to 128 px, masks by majority. Nothing is chosen here: the settings stood.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ebmlib.benchmark import hardware, versions
from ebmlib.data import load
from ebmlib.data.resizing import resize_mask
from ebmlib.detector import EnergyDetector
from ebmlib.energy import input_gradient
from ebmlib.metrics import _RankedPixels, image_auroc
from ebmlib.products import ProductOfExperts
from ebmlib.scoring import (
    MapStandardizer,
    energy_score,
    gradient_map,
    image_score,
    patch_map,
    smooth,
)
from ebmlib.sweep import write_result

ROOT = Path(__file__).resolve().parents[1]
SIDE = 128  # px of the maps on which pixels are counted
REPLICATES = 100
Maps = Callable[[Tensor], Tensor]  # what the energy sees (N, C, h, w) -> (N, h, w)
STANDING = "both experts, gradient^.25 x log patches^.75, maximum (the standing map)"


class Scaled(nn.Module):
    """One expert of a product, in the units that it has there."""

    def __init__(self, energy: nn.Module, weight: float):
        super().__init__()
        self.energy, self.weight = energy, weight

    def energy_map(self, x: Tensor) -> Tensor:
        """The patch energies, times the weight."""
        return self.weight * self.energy.energy_map(x)

    def forward(self, x: Tensor) -> Tensor:
        """Their sum."""
        return self.energy_map(x).sum((1, 2))


def descent_map(product: ProductOfExperts, x: Tensor, smoothing: float) -> Tensor:
    """How far ten steps down the energy move each pixel (Dehaene et al. 2020).

    The step is the inverse of the largest curvature that the Gaussians can have.
    """
    gaussians = product.gaussians
    overlap = (gaussians.side / gaussians.stride) ** 2
    step = gaussians.noise**2 / (product.weights[1] * overlap)
    maps = []
    for batch in x.split(32):
        y = batch
        for _ in range(10):
            y = (y - step * input_gradient(product, y)).clamp(0, 1)
        maps.append((y - batch).square().sum(1).sqrt())
    return smooth(torch.cat(maps), smoothing)


def variants(detector: EnergyDetector, normals: Tensor) -> Iterator[tuple]:
    """Yield `(name, maps, score)`; score is a kind of `image_score`, or "energy"."""
    product, s = detector.energy, detector.smoothing
    network, gaussians = (
        Scaled(e, w)
        for e, w in zip(
            (product.network, product.gaussians), product.weights, strict=True
        )
    )

    def gradient(energy=product, **options) -> Maps:
        return lambda x: gradient_map(energy, x, **{"smoothing": s, **options})

    def patches(energy=product, compress=True) -> Maps:
        return lambda x: patch_map(energy, x, smoothing=s, compress=compress)

    def mean(share=0.25, energy=product, first=None, second=None) -> Maps:
        first, second = first or gradient(energy), second or patches(energy)
        return lambda x: first(x) ** share * second(x).clamp_min(0) ** (1 - share)

    usual = MapStandardizer("position", smoothing=s).fit(gradient()(normals))
    noisy = {"noise": 0.02, "copies": 8}

    def averaged(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return gradient(**noisy, generator=generator)(x)

    yield STANDING, mean(), "max"
    yield "the network alone", mean(energy=network), "max"
    yield "the Gaussians alone", mean(energy=gaussians), "max"
    yield "energy of both, no map", mean(), "energy"
    yield "gradient alone", gradient(), "max"
    yield "gradient alone, of the network", gradient(network), "max"
    yield "gradient alone, of the Gaussians", gradient(gaussians), "max"
    yield "patches alone", patches(compress=False), "max"
    yield "log patches alone", patches(), "max"
    yield "patches without log", mean(second=patches(compress=False)), "max"
    yield "share of the gradient .1", mean(0.1), "max"
    yield "share of the gradient .5", mean(0.5), "max"
    yield "gradient alone, l1 over channels", gradient(norm="l1"), "max"
    yield "gradient alone, no smoothing", gradient(smoothing=0.0), "max"
    yield "gradient alone, half the smoothing", gradient(smoothing=s / 2), "max"
    yield "gradient alone, twice the smoothing", gradient(smoothing=2 * s), "max"
    signed = gradient(signed_smoothing=1.0)
    yield "gradient alone, signed smoothing of 1 px", signed, "max"
    yield "gradient alone, mean of 8 noisy copies", averaged, "max"
    by_place = gradient()
    yield "gradient alone, per position", lambda x: usual(by_place(x)), "max"
    yield "ten steps down the energy", lambda x: descent_map(product, x, s), "max"
    yield "mean of the largest 1 %", mean(), "top"
    yield "norm of the map, not standardized", mean(), "l2"


def evaluate(detector: EnergyDetector, data, normals: Tensor) -> dict[str, tuple]:
    """Image scores and ranked pixels of every variant: `{name: (scores, ranked)}`."""
    seen = [detector._view(x) for x in data.test.split(32)]
    view = torch.cat([v for v, _ in seen])
    poses = None if seen[0][1] is None else torch.cat([p for _, p in seen])
    masks = np.stack([resize_mask(m, SIDE)[0] for m in data.masks.numpy()])
    normal_view = torch.cat([detector._view(x)[0] for x in normals.split(32)])
    found = {}
    for name, maps, kind in variants(detector, normal_view):
        m = maps(view)
        scores = (
            energy_score(detector.energy, view)
            if kind == "energy"
            else image_score(m, kind)
        )
        whole = detector._put_back(m, poses, data.test, outside=float(m.min()))
        small = nn.functional.adaptive_avg_pool2d(whole[:, None], SIDE)[:, 0]
        found[name] = scores.numpy(), _RankedPixels.of(small.numpy(), masks)
        print(".", end="", file=sys.stderr, flush=True)
    return found


def table(runs: list[dict[str, tuple]], labels: np.ndarray) -> list[dict]:
    """Rows: means over seeds, and differences to the standing map with intervals."""
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(labels == value) for value in (0, 1)]
    indices = [np.arange(len(labels))] + [
        np.concatenate([rng.choice(g, len(g)) for g in groups])
        for _ in range(REPLICATES)
    ]
    measures = {
        "image_auroc": lambda run, i: image_auroc(run[0][i], labels[i]),
        "pixel_auroc": lambda run, i: run[1].pixel_auroc(i),
        "au_pro": lambda run, i: run[1].au_pro(i),
    }
    values = {
        (name, key): np.mean(
            [[measure(run[name], i) for i in indices] for run in runs], axis=0
        )
        for name in runs[0]
        for key, measure in measures.items()
    }
    rows = []
    for name in runs[0]:
        row = {"name": name}
        for key in measures:
            here = values[name, key]
            row[key] = round(float(here[0]), 4)
            gain = here - values[STANDING, key]
            low, high = np.quantile(gain[1:], [0.025, 0.975])
            row[f"{key}_gain"] = [round(float(v), 4) for v in (gain[0], low, high)]
        rows.append(row)
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detectors", type=Path, help="folder of the fitted detectors")
    parser.add_argument("--categories", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--root", default=os.environ.get("MVTEC_ROOT"))
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    for category in options.categories:
        stem = category.replace("/", "-")
        pattern = f"{stem}_thorough_experts_{options.size}px_seed*.safetensors"
        files = sorted(options.detectors.glob(pattern))
        if not files:
            parser.error(f"no {pattern} in {options.detectors}")
        data = load(category, size=options.size, root=options.root)
        runs = []
        for file in files:
            detector = EnergyDetector.load(file, device="cpu")
            fitted, _ = detector._split(data.train)
            runs.append(evaluate(detector, data, fitted))
        words = ["python", "benchmarks/map_ablation.py", "DETECTORS"]
        words += ["--categories", category, "--size", str(options.size)]
        result = {
            "category": category,
            "image_size": options.size,
            "seeds": len(files),
            "replicates": REPLICATES,
            "pixels_a_side": SIDE,
            "rows": table(runs, data.labels.numpy().astype(int)),
            "versions": versions(),
            "hardware": hardware(),
            "command": shlex.join(words),
        }
        write_result(options.out / f"ablation_{stem}_{options.size}px.json", result)


if __name__ == "__main__":
    main()
