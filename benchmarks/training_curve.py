"""What more training buys: every figure against the number of steps (chapter 12).

    python benchmarks/training_curve.py --category mvtec/bottle --size 256

Trains `thorough_experts` anew for every length, each with its own schedule, scores the
test images, and writes results/curve_mvtec-bottle_256px.json: a description of a limit,
from which nothing is chosen. 8000 steps, the recipe, are among the results.
"""

import argparse
import os
from pathlib import Path

import torch

from ebmlib import benchmark
from ebmlib.benchmark import hardware, versions
from ebmlib.data import load
from ebmlib.sweep import write_result

ROOT = Path(__file__).resolve().parents[1]


def row(data, steps: int, seed: int) -> dict:
    """The figures of one length."""
    result = benchmark.run(data, "thorough_experts", seed, steps=steps)
    metrics = result["metrics"]
    return {
        "steps": steps,
        "seconds": result["seconds"]["fit"],
        "image_auroc": metrics["image_auroc"],
        "pixel_auroc": metrics["pixel_auroc"],
        "au_pro": metrics["au_pro"],
        "energy": metrics["image_scores"]["energy"]["image_auroc"],
        "gradient": metrics["maps"]["gradient"],
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--category", default="mvtec/bottle")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, nargs="+", default=[500, 1000, 2000, 4000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--root", default=os.environ.get("MVTEC_ROOT"))
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load(options.category, size=options.size, root=options.root)
    words = f"--category {options.category} --size {options.size}"
    made = {
        "category": options.category,
        "image_size": options.size,
        "seed": options.seed,
        "rows": [],
        "versions": versions(),
        "hardware": hardware(),
        "command": f"python benchmarks/training_curve.py {words}",
    }
    stem = options.category.replace("/", "-")
    for steps in options.steps:
        made["rows"].append(row(data, steps, options.seed))
        print(made["rows"][-1], flush=True)
        write_result(options.out / f"curve_{stem}_{options.size}px.json", made)


if __name__ == "__main__":
    main()
