"""The control of chapter 10: gradient maps of networks that were not trained.

    python benchmarks/untrained_map.py --root DATA

The detectors are those of the benchmark's contrastive-divergence runs at 128 px, with
one update in place of 500: the same network, preparation of images, smoothing and
standardization by normal training images. What they reach is no merit of training.
Writes a record in results/ after every run; runs that it holds already stay.
"""

import argparse
from pathlib import Path

import torch

from ebmlib.benchmark import hardware, today, versions
from ebmlib.data import load
from ebmlib.detector import EnergyDetector
from ebmlib.metrics import au_pro, image_auroc, pixel_auroc
from ebmlib.recipes import ContrastiveDivergence
from ebmlib.results_files import EXPERIMENTS, read_json, record_path, write_result

ROOT = Path(__file__).resolve().parents[1]
SIZE = 128


def row(category: str, seed: int, root: Path | None) -> dict:
    """The image and pixel measures of one untrained network."""
    data = load(category, size=SIZE, root=root, need_masks=True)
    recipe = ContrastiveDivergence(steps=1)
    detector = EnergyDetector(recipe, SIZE, seed=seed, device="cpu").fit(data.train)
    scores, maps = detector.anomaly_score(data.test), detector.anomaly_map(data.test)
    return {
        "category": category,
        "seed": seed,
        "energy": image_auroc(detector.energy_score(data.test), data.labels),
        "max": image_auroc(scores, data.labels),
        "pixel_auroc": pixel_auroc(maps, data.masks),
        "au_pro": au_pro(maps, data.masks),
    }


def main() -> None:
    """Measure, and write after every run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--categories", nargs="+", default=["mvtec/bottle", "mvtec/screw"]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = record_path(options.out, EXPERIMENTS, "untrained_map")
    rows = read_json(path)["rows"] if path.exists() else []
    for category in options.categories:
        for seed in options.seeds:
            if any((r["category"], r["seed"]) == (category, seed) for r in rows):
                continue
            rows.append(row(category, seed, options.root))
            print(rows[-1], flush=True)
            write_result(
                path,
                {
                    "what": __doc__.splitlines()[0],
                    "command": "python benchmarks/untrained_map.py --root DATA",
                    "image_size": SIZE,
                    "versions": versions(),
                    "hardware": hardware(),
                    "rows": rows,
                    "date": today(),
                },
            )


if __name__ == "__main__":
    main()
