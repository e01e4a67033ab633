"""Write the saved runs that two demos of the book replay.

    python tools/export_demo_runs.py threshold    # writes data/threshold_run.js
    python tools/export_demo_runs.py watch        # writes data/watch_runs.js
    python tools/export_demo_runs.py --check      # compares both, writes nothing

The files go to book/_static/demos/data. Drawn data only, one thread, seeded: on one
machine with the pinned versions they come out bit for bit the same. Each takes a few
minutes on one core.
"""

import argparse
import base64
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

import ebmlib
from ebmbook.saved import saved_detector
from ebmlib import metrics
from ebmlib.data import Category, load
from ebmlib.data.corruption import corrupt
from ebmlib.energy import Energy, energies
from ebmlib.guard import Guard
from ebmlib.langevin import langevin
from ebmlib.losses import LossResult, contrastive_divergence
from ebmlib.networks import ConvEnergy
from ebmlib.objectives import PersistentContrastiveDivergence
from ebmlib.replay import ReplayBuffer, corrupted_images
from ebmlib.runlog import TrainingLog
from ebmlib.toy import GaussianMixtureEnergy
from ebmlib.training import train

FOLDER = Path(__file__).resolve().parents[1] / "book" / "_static" / "demos" / "data"
FIGURES = {  # name in the file: name in the log
    "data": "energy_data",
    "chain": "energy_chain",
    "gap": "gap",
    "ratio": "chain_drift_to_noise",
}
HALF = 3.5  # the 2-D runs live in [-HALF, HALF]^2
BLIND = Guard(max_energy=math.inf, max_growth=math.inf)  # a broken run may show itself


# --- Choose a threshold ---------------------------------------------------------------


def threshold_run(fresh: int = 99) -> dict:
    """Image scores and binned map scores of the book's saved detector.

    The threshold rests on `fresh` normal images drawn after those of the training set;
    99 of them can promise a false-alarm rate of 1 %.
    """
    detector = saved_detector("synthetic/nut")
    seen = 128  # the training images of the saved detector
    data = load(
        "synthetic/nut", size=64, n_train=seen + fresh, n_test=100, n_defective=20
    )
    scores = rounded(detector.anomaly_score(data.test))
    held_out = detector.anomaly_score(data.train[seen:])
    maps = detector.anomaly_map(data.test).numpy()
    kinds = list(dict.fromkeys(data.kinds))
    return {
        "category": data.name,
        "model": f"saved_detector({data.name!r}), {detector.recipe.steps} steps",
        "kinds": kinds,
        "kind": [kinds.index(kind) for kind in data.kinds],
        "scores": scores,
        "held_out": rounded(held_out),
        "image_auroc": metrics.image_auroc(np.array(scores), data.labels),
        "average_precision": metrics.average_precision(np.array(scores), data.labels),
        "thumbnails": sprite(data.test, side=40, columns=20),
        "maps": binned_maps(data, maps),
    }


def binned_maps(data: Category, maps: np.ndarray) -> dict:
    """Pixels per bin of the map's score: normal ones, and those of every defect.

    The lower edges of the bins are scores of normal pixels at falling false positive
    rates, evenly spread on a log scale, so that every point of the PRO curve is exact.
    """
    masks = data.masks.numpy()
    normal = np.sort(maps[~masks])
    rates = np.concatenate(
        [np.geomspace(1, 0.3, 20)[:-1], np.geomspace(0.3, 2e-5, 100)]
    )
    at = normal[np.minimum((normal.size * (1 - rates)).astype(int), normal.size - 1)]
    beyond = maps[masks & (maps > normal[-1])]
    above = np.quantile(beyond, [0.0, 0.25, 0.5, 0.75, 0.9]) if beyond.size else []
    edges = np.unique(np.concatenate([[maps.min()], at, above]).astype(np.float32))
    bins = np.searchsorted(edges, maps, "right") - 1  # (N, H, W), 0 ... K - 1
    regions, owners = [], []
    for i, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=metrics.EIGHT_NEIGHBORS)
        for k in range(1, count + 1):
            regions.append(np.bincount(bins[i][labels == k], minlength=len(edges)))
            owners.append(i)
    shown = [i for kind in dict.fromkeys(data.kinds) for i in first(data.kinds, kind)]
    return {
        "size": maps.shape[-1],
        "edges": rounded(edges),
        "normal": np.bincount(bins[~masks], minlength=len(edges)).tolist(),
        "regions": [sparse(region) for region in regions],
        "owners": owners,
        "au_pro": metrics.au_pro(bins, masks),
        "pixel_auroc": metrics.pixel_auroc(bins, masks),
        "shown": shown,
        "pictures": sprite(data.test[shown], side=maps.shape[-1], columns=len(shown)),
        "bins": text(bins[shown].astype(np.uint8)),
        "masks": text(np.packbits(masks[shown])),
    }


def first(kinds: list[str], kind: str, count: int = 2) -> list[int]:
    """Indices of the first images of a kind."""
    return [i for i, name in enumerate(kinds) if name == kind][:count]


def sparse(counts: np.ndarray) -> list[list[int]]:
    """The bins that are not empty, as pairs (bin, count)."""
    return [[int(i), int(counts[i])] for i in np.flatnonzero(counts)]


# --- Watch it train -------------------------------------------------------------------


def watch_runs() -> dict:
    """Two pairs of runs: points in the plane, and images of the drawn nut."""
    return {"points": point_runs(), "images": image_runs()}


def image_runs(steps: int = 120, every: int = 6) -> dict:
    """A run like that of chapter 7, and one with too large a rate and step."""
    train_images = load("synthetic/nut", size=32, n_test=2, n_defective=1).train
    start = corrupted_images(train_images, corrupt)

    def run(
        noise: float, snr: float, scale: float, penalty: float, how: str, **options
    ) -> dict:
        torch.manual_seed(0)
        energy = ConvEnergy(3, width=16, depth=3)
        generator = torch.Generator().manual_seed(0)
        buffer = ReplayBuffer(128, start, fresh=0.1, generator=generator)
        probe = langevin(
            energy, start(8, generator), steps=1, snr=snr, noise=noise,
            generator=generator,
        )  # fmt: skip
        objective = PersistentContrastiveDivergence(
            buffer, steps=20, step_size=scale * probe.health.step_size, noise=noise,
            penalty=penalty, data_noise=noise,
        )  # fmt: skip
        kept = []

        def look() -> None:
            kept.append((buffer.pixels[:8].float() + 0.5) / 256)

        log = followed(
            energy, train_images, objective, look, every,
            steps=steps, batch_size=16, **options,
        )  # fmt: skip
        samples = sprite(torch.cat(kept), side=32, columns=8, quality=70)
        return {"how": how, "log": log, "samples": samples}

    return {
        "title": "Images of the nut",
        "every": every,
        "steps": steps,
        "data": sprite(train_images[:8], side=32, columns=8),
        "healthy": run(
            0.005, 0.08, 1.0, 0.01,
            "Rate 0.001 falling to 0, penalty 0.01, clipped updates",
            learning_rate=1e-3,
        ),
        "diverging": run(
            0.01, 0.04, 5.0, 0.0,
            "Rate 0.03, no penalty, no clipping, five times the step",
            learning_rate=3e-2, clip_norm=math.inf, schedule="constant",
        ),
    }  # fmt: skip


class PlaneEnergy(nn.Module):
    """A small network and a shallow bowl: (B, 2) -> (B,)."""

    def __init__(self, width: int = 64):
        super().__init__()
        sizes = [nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.net = nn.Sequential(*sizes, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The energy of each point."""
        return self.net(x).squeeze(1) + 0.05 * x.square().sum(1)


class PlaneChains:
    """Persistent contrastive divergence in the plane: 256 chains, exact noise."""

    def __init__(self, steps: int, step_size: float, generator: torch.Generator):
        self.steps, self.step_size = steps, step_size
        self.x = anywhere(256, generator)

    def __call__(
        self, energy: Energy, batch: Tensor, generator: torch.Generator
    ) -> LossResult:
        """Some chains begin anew, all advance, the batch is contrasted with them."""
        anew = torch.rand(len(self.x), 1, generator=generator) < 0.05
        begin = torch.where(anew, anywhere(len(self.x), generator), self.x)
        chain = langevin(
            energy, begin, steps=self.steps, step_size=self.step_size,
            bounds=(-HALF, HALF), generator=generator,
        )  # fmt: skip
        self.x = chain.x
        result = contrastive_divergence(energy, batch, chain.x, penalty=0.0)
        ratio = {"chain_drift_to_noise": chain.health.drift_to_noise}
        return LossResult(result.loss, result.health | ratio)


def anywhere(n: int, generator: torch.Generator) -> Tensor:
    """Points spread evenly over the square."""
    return HALF * (2 * torch.rand(n, 2, generator=generator) - 1)


def two_moons(radius: float = 1.7, std: float = 0.28, beads: int = 9) -> Energy:
    """The two moons of the demo "Sculpt an energy" (langevin_math.js)."""
    angles = torch.linspace(0, math.pi, beads)
    arc = torch.stack([angles.cos() - 0.5, angles.sin() - 0.25], 1) * radius
    return GaussianMixtureEnergy(torch.cat([arc, -arc]), torch.full((2 * beads,), std))


def point_runs(steps: int = 300, every: int = 15, cells: int = 32) -> dict:
    """A run on two moons, and one whose step is too large for what it learns."""
    truth = two_moons()
    data = truth.sample(2000, torch.Generator().manual_seed(0))
    centers = torch.from_numpy((np.arange(cells) + 0.5) * 2 * HALF / cells - HALF)
    grid = torch.cartesian_prod(-centers, centers).float().flip(1)  # top row first
    exact = (-truth(grid)).softmax(0)

    def run(chain_steps: int, step_size: float, how: str, **options) -> dict:
        torch.manual_seed(0)
        energy, generator = PlaneEnergy(), torch.Generator().manual_seed(0)
        chains = PlaneChains(chain_steps, step_size, generator)
        points, levels, ranges, distance = [], [], [], []

        def look() -> None:
            points.append(quantized(chains.x, -HALF, HALF))
            e = energies(energy, grid, batch_size=len(grid))
            low, high = float(e.min()), float(e.min()) + 9.0  # what the picture shows
            levels.append(quantized(e, low, high))
            ranges.append(low)
            distance.append(float(((-e).softmax(0) - exact).abs().sum() / 2))

        log = followed(
            energy, data, chains, look, every, steps=steps, batch_size=256, **options
        )
        return {
            "how": how,
            "log": log,
            "points": text(np.stack(points)),
            "levels": text(np.stack(levels)),
            "lowest": rounded(ranges),
            "distance": rounded(distance),
        }

    return {
        "title": "Points in the plane",
        "every": every,
        "steps": steps,
        "half": HALF,
        "cells": cells,
        "chains": 256,
        "data": text(quantized(data[:256], -HALF, HALF)),
        "healthy": run(
            20, 0.02, "Rate 0.03 falling to 0, 20 steps of 0.02, clipped updates",
            learning_rate=3e-2,
        ),
        "diverging": run(
            10, 0.15, "Rate 0.03, 10 steps of 0.15, no clipping",
            learning_rate=3e-2, clip_norm=math.inf, schedule="constant",
        ),
    }  # fmt: skip


def followed(
    energy: nn.Module,
    data: Tensor,
    objective: Callable,
    look: Callable[[], None],
    every: int,
    **options,
) -> dict[str, list[float]]:
    """Train; call `look` before the first step and after every `every` steps."""
    look()

    def callback(step: int, _: dict) -> None:
        if step % every == 0:
            look()

    log: TrainingLog = train(
        energy, data, objective, seed=0, device="cpu", betas=(0.0, 0.999),
        guard=BLIND, callback=callback, **options,
    )  # fmt: skip
    return {name: rounded(log.health[key]) for name, key in FIGURES.items()}


# --- Small print ----------------------------------------------------------------------


def rounded(values, digits: int = 4) -> list[float]:
    """Few significant digits: small files, and the same on nearly every machine."""
    return [float(f"{float(v):.{digits}g}") for v in values]


def quantized(x: Tensor, low: float, high: float) -> np.ndarray:
    """[low, high] to 0 ... 255; what lies outside is moved to the end."""
    share = ((x - low) / (high - low)).clamp(0, 1)
    return (share * 255).round().byte().numpy()


def text(array: np.ndarray) -> str:
    """The bytes of an array in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def sprite(images: Tensor, side: int, columns: int, quality: int = 80) -> dict:
    """Small pictures side by side in one JPEG: (N, 3, H, W) in [0, 1]."""
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (side * columns, side * rows))
    for i, image in enumerate(images):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        small = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
        sheet.paste(small, (side * (i % columns), side * (i // columns)))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=quality, optimize=True)
    url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"side": side, "columns": columns, "count": len(images), "url": url}


def script(name: str, constant: str, content: dict) -> str:
    """The classic script that defines the constant."""
    versions = f"ebmlib {ebmlib.__version__}, torch {torch.__version__.split('+')[0]}"
    return (
        f"// Written by tools/export_demo_runs.py; do not edit. Drawn data only.\n"
        f"// Command: python tools/export_demo_runs.py {name}\n"
        f"// Versions: {versions}, one thread.\n"
        f"const {constant} = {json.dumps(content, separators=(',', ':'))};\n"
        f"if (typeof module !== 'undefined') module.exports = {constant};\n"
    )


RUNS = {
    "threshold": ("threshold_run.js", "THRESHOLD_RUN", threshold_run),
    "watch": ("watch_runs.js", "WATCH_RUNS", watch_runs),
}


def main() -> None:
    """Compute, then write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", choices=[[], *RUNS], default=[])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in args.runs or RUNS:
        file, constant, compute = RUNS[name]
        made = script(name, constant, compute())
        path = FOLDER / file
        if args.check:
            same = path.exists() and path.read_text(encoding="utf-8") == made
            print(f"{path.name}: {'the same' if same else 'DIFFERENT'}")
            if not same:
                raise SystemExit(1)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made, encoding="utf-8")
            print(f"{path.name}: {len(made) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
