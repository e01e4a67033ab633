"""Chapter 7's run, with more updates: what its energy and its gradient map are worth.

    python benchmarks/longer_run.py

Every length is a run of its own, with its own schedule and everything else as in
`notebooks/07_train_an_image_ebm.ipynb`; the first is the chapter's, and 2,000 updates
with seed 0 are those of `load_saved("nut_cd_2000")`. Writes a record in results/: image
AUROC of the energy and of the maximum of its gradient map, AU-PRO of the map, and the
vital signs at the end. A description, from which nothing is chosen. Lengths and seeds
that the file holds already stay.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from ebmbook.saved import CD_SIZE, load_saved, train_cd
from ebmlib.benchmark import hardware, today, versions
from ebmlib.data import load
from ebmlib.energy import energies
from ebmlib.metrics import au_pro, image_auroc
from ebmlib.results_files import EXPERIMENTS, read_json, record_path, write_result
from ebmlib.scoring import gradient_map, image_score

ROOT = Path(__file__).resolve().parents[1]
SIGNS = ("gap", "chain_drift_to_noise", "chain_saturated", "chain_spread")
LATE = 40  # updates at the end of a run, of which the vital signs are means


def row(category, steps: int, seed: int) -> dict:
    """The figures of one run."""
    split = len(category.train) * 4 // 5
    images, held_out = category.train[:split], category.train[split:]
    if (steps, seed) == (2000, 0):  # trained already, by CD_COMMAND
        run, seconds = load_saved("nut_cd_2000"), None
        energy, events = run.energy, run.settings["events"]
        signs = {s: float(run.health[s][-LATE // 10 :].mean()) for s in SIGNS}
    else:
        begun = time.perf_counter()
        energy, _, log = train_cd(images, steps, seed)
        seconds, events = round(time.perf_counter() - begun, 1), log.events
        signs = {s: float(np.mean(log.health[s][-LATE:])) for s in SIGNS}
    maps = gradient_map(energy, category.test, smoothing=1.0)
    labels = category.labels
    spread = float(2**0.5 * images.var(0).mean().sqrt())
    return {
        "steps": steps,
        "seed": seed,
        "seconds": seconds,
        "energy": image_auroc(energies(energy, category.test), labels),
        "gradient_max": image_auroc(image_score(maps, "max"), labels),
        "gradient_au_pro": au_pro(maps, category.masks),
        "held_out_minus_train": float(
            energies(energy, held_out).mean() - energies(energy, images).mean()
        ),
        **signs,
        "spread_of_data": spread,
        "events": events,
    }


def main() -> None:
    """Run, and write after every run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    category = load("synthetic/nut", size=CD_SIZE)
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
