"""Chapter 7's run, continued: what more updates of contrastive divergence buy.

    python benchmarks/longer_run.py

Every length is a run of its own, with its own schedule and everything else as in
`notebooks/07_train_an_image_ebm.ipynb`; the first is the chapter's. Writes
a record in results/: image AUROC of the energy and of the maximum of its gradient
map, and the vital signs at the end. A description, from which nothing is chosen.
Lengths and seeds that the file holds already stay.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from ebmlib.benchmark import hardware, today, versions
from ebmlib.data import load
from ebmlib.data.corruption import corrupt
from ebmlib.energy import energies
from ebmlib.langevin import langevin
from ebmlib.metrics import image_auroc
from ebmlib.networks import ConvEnergy
from ebmlib.objectives import PersistentContrastiveDivergence
from ebmlib.replay import ReplayBuffer, corrupted_images
from ebmlib.results_files import EXPERIMENTS, read_json, record_path, write_result
from ebmlib.scoring import MapStandardizer, gradient_map, image_score
from ebmlib.training import train

ROOT = Path(__file__).resolve().parents[1]
SIZE, NOISE = 32, 0.01
SIGNS = ("gap", "chain_drift_to_noise", "chain_saturated", "chain_spread")
LATE = 40  # updates at the end of a run, of which the vital signs are means


def new_run(images: torch.Tensor, seed: int):
    """Energy and objective of chapter 7."""
    start = corrupted_images(images, corrupt)
    torch.manual_seed(seed)
    energy = ConvEnergy(images.shape[1], width=16, depth=3)
    generator = torch.Generator().manual_seed(seed)
    buffer = ReplayBuffer(128, start, fresh=0.1, generator=generator)
    probe = langevin(
        energy,
        start(8, generator),
        steps=1,
        snr=0.04,
        noise=NOISE,
        generator=generator,
    )
    return energy, PersistentContrastiveDivergence(
        buffer,
        steps=20,
        step_size=probe.health.step_size,
        noise=NOISE,
        penalty=0.01,
        data_noise=NOISE,
    )


def row(category, steps: int, seed: int) -> dict:
    """The figures of one run."""
    split = len(category.train) * 4 // 5
    images, held_out = category.train[:split], category.train[split:]
    energy, objective = new_run(images, seed)
    begun = time.perf_counter()
    log = train(
        energy,
        images,
        objective,
        steps=steps,
        seed=seed,
        device="cpu",
        batch_size=16,
        learning_rate=1e-3,
        betas=(0.0, 0.999),
    )
    seconds = time.perf_counter() - begun
    normal = gradient_map(energy, held_out, smoothing=1.0)
    standard = MapStandardizer("global").fit(normal)
    maps = standard(gradient_map(energy, category.test, smoothing=1.0))
    labels = category.labels
    signs = {s: float(np.mean(log.health[s][-LATE:])) for s in SIGNS}
    spread = float(2**0.5 * images.var(0).mean().sqrt())
    return {
        "steps": steps,
        "seed": seed,
        "seconds": round(seconds, 1),
        "energy": image_auroc(energies(energy, category.test), labels),
        "gradient_max": image_auroc(image_score(maps, "max"), labels),
        "held_out_minus_train": float(
            energies(energy, held_out).mean() - energies(energy, images).mean()
        ),
        **signs,
        "spread_of_data": spread,
        "events": log.events,
    }


def main() -> None:
    """Run, and write after every run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[120, 500, 2000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    category = load("synthetic/nut", size=SIZE)
    path = record_path(options.out, EXPERIMENTS, "longer_run")
    rows = read_json(path)["rows"] if path.exists() else []
    for steps in options.steps:
        for seed in options.seeds:
            if any((r["steps"], r["seed"]) == (steps, seed) for r in rows):
                continue
            rows.append(row(category, steps, seed))
            print(rows[-1], flush=True)
            write_result(
                path,
                {
                    "what": __doc__.splitlines()[0],
                    "command": "python benchmarks/longer_run.py",
                    "versions": versions(),
                    "hardware": hardware(),
                    "rows": rows,
                    "date": today(),
                },
            )


if __name__ == "__main__":
    main()
