"""What more training and a larger network buy: every figure against both.

    python benchmarks/training_curve.py --category mvtec/bottle --size 256

Trains `thorough_experts` anew for every length, each with its own schedule, and for
every width at one length, scores the test images, and writes
results/curve_mvtec-bottle_256px.json: a description of a limit, from which nothing is
chosen. 8000 steps of width 32, the recipe, are among the results of the benchmark.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import torch

from ebmlib import benchmark
from ebmlib.benchmark import hardware, versions
from ebmlib.data import load
from ebmlib.recipes import RECIPES, thorough_experts
from ebmlib.sweep import write_result

ROOT = Path(__file__).resolve().parents[1]


def row(data, steps: int, width: int, seed: int) -> dict:
    """The figures of one length and width."""
    RECIPES["curve"] = partial(thorough_experts, width=width)
    result = benchmark.run(data, "curve", seed, steps=steps, register=True)
    metrics = result["metrics"]
    network = thorough_experts(data.train, True, None, steps, width).energy
    return {
        "steps": steps,
        "width": width,
        "parameters": sum(p.numel() for p in network.parameters()),
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
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--width-steps", type=int, default=2000)
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
    lengths = [(steps, 32) for steps in options.steps]
    for steps, width in lengths + [(options.width_steps, w) for w in options.widths]:
        made["rows"].append(row(data, steps, width, options.seed))
        print(made["rows"][-1], flush=True)
        write_result(options.out / f"curve_{stem}_{options.size}px.json", made)


if __name__ == "__main__":
    main()
