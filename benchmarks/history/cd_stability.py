"""Is contrastive divergence stable? Energy AUROC over training, several seeds.

    python benchmarks/cd_stability.py --category mvtec/bottle --size 64 --seeds 0 1 2

One run of the recipe `contrastive_divergence` per seed. Every few steps the averaged
weights score the test images; nothing is chosen by these scores, and the last
checkpoint counts. The drop is the largest fall of a checkpoint's AUROC from the best
one before it; `below_last` says how far any checkpoint of the second half lies below
the last one. With `--figure` the final chains are drawn beside training images (never
to be committed for MVTec images). Writes one JSON file per seed.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch

from ebmlib.benchmark import hardware, versions
from ebmlib.data import Category, load
from ebmlib.energy import energies
from ebmlib.metrics import image_auroc
from ebmlib.plotting import image_grid
from ebmlib.recipes import contrastive_divergence
from ebmlib.training import train


def run(
    data: Category, seed: int, steps: int | None, every: int
) -> tuple[dict, object]:
    """Train once; return the record and the objective, which holds the chains."""
    with torch.random.fork_rng(devices=[]):
        recipe = contrastive_divergence(data.train, True, torch.manual_seed(seed))
    options = recipe.training | ({} if steps is None else {"steps": steps})
    twin = copy.deepcopy(recipe.energy)
    curve: list[dict] = []

    def watch(step: int, info: dict) -> None:
        if step % every:
            return
        twin.load_state_dict(info["averaged"] or info["energy"].state_dict())
        scores = energies(twin, data.test)
        curve.append(
            {"step": step, "auroc": round(image_auroc(scores, data.labels), 4)}
        )
        print(
            f"seed {seed} step {step}: energy AUROC {curve[-1]['auroc']:.3f}",
            flush=True,
        )

    start = time.perf_counter()
    log = train(
        recipe.energy,
        data.train,
        recipe.objective,
        seed=seed,
        callback=watch,
        **options,
    )
    return {
        "category": data.name,
        "method": "contrastive_divergence",
        "seed": seed,
        "image_size": data.train.shape[-1],
        "settings": {k: v for k, v in options.items() if k != "callback"},
        "curve": curve,
        "vitals": {
            name: [round(v, 5) for v in log.health[name][every - 1 :: every]]
            for name in ("energy_data", "energy_chain", "gap", "chain_drift_to_noise")
        },
        "events": log.events,
        "metrics": summarize([point["auroc"] for point in curve]),
        "seconds": {"fit": round(time.perf_counter() - start, 1)},
        "versions": versions(),
        "hardware": hardware(),
    }, recipe.objective


def summarize(aurocs: list[float]) -> dict[str, object]:
    """The last AUROC, the largest drop, and how far later checkpoints lie below it."""
    best, drop = aurocs[0], 0.0
    for value in aurocs:
        best = max(best, value)
        drop = max(drop, best - value)
    second_half = aurocs[len(aurocs) // 2 :]
    return {
        "image_auroc": aurocs[-1],
        "image_scores": {"energy": {"image_auroc": aurocs[-1]}},
        "largest_drop": round(drop, 4),
        "below_last": round(max(aurocs[-1] - min(second_half), 0.0), 4),
    }


def main() -> None:
    """Run every seed and write its record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--category", default="synthetic/nut")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--figure", type=Path, help="PNG of training images and chains")
    options = parser.parse_args()
    data = load(options.category, size=options.size)
    for seed in options.seeds:
        record, objective = run(data, seed, options.steps, options.every)
        record["command"] = (
            f"python benchmarks/cd_stability.py --category {options.category} "
            f"--size {options.size} --seeds {seed}"
        )
        name = f"cd-stability_{options.category.replace('/', '-')}_seed{seed}.json"
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / name).write_text(json.dumps(record, indent=1) + "\n")
        print(name, record["metrics"])
        if options.figure:
            chains = objective.buffer.pixels[:12].float() / 255
            figure = image_grid(torch.cat([data.train[:12], chains]), columns=12)
            figure.savefig(options.figure.with_stem(f"{options.figure.stem}_{seed}"))


if __name__ == "__main__":
    main()
