"""Exported graphs beside the detector: do they agree, and what does a photograph cost?

    python benchmarks/speed_export.py                  # all recipes, batch 1 and 8
    python benchmarks/speed_export.py --methods fields --batches 1

Every recipe is fitted to drawn nuts, exported to ONNX, and run in ONNX Runtime on 100
photographs that it has not seen, as bytes. Agreement is the largest difference of a
score and of a map value, each over its threshold, and the verdicts that differ. Time is
that of the whole chain from bytes to map, of `EnergyDetector.predict` and of the graph
in turn: medians of ROUNDS, and the median of their ratios. With one thread it is CPU
time, which other programs on the machine disturb little; with two it is wall time,
which means little unless the machine does nothing else.
Trained recipes get few steps: neither agreement nor time depends on their number. Rows
that the file holds already stay.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ebmlib import EnergyDetector, load
from ebmlib.benchmark import hardware, today, versions
from ebmlib.export import difference, onnx_runner
from ebmlib.feature_recipes import Fields, LearnedFeatures
from ebmlib.plan import Recipe
from ebmlib.recipes import (
    Contrast,
    ContrastiveDivergence,
    Experts,
    ScoreMatching,
)
from ebmlib.results_files import EXPERIMENTS, read_json, record_path, write_result

ROOT = Path(__file__).resolve().parents[1]
IMAGES, ROUNDS, SEED = 100, 15, 0
RECIPES: dict[str, tuple[Recipe, int]] = {  # and the side of the photographs in px
    "fields": (Fields(), 128),
    "contrast": (Contrast(steps=20), 128),
    "score_matching": (ScoreMatching(steps=20), 128),
    "contrastive_divergence": (ContrastiveDivergence(steps=5, chain_steps=5), 128),
    "experts": (Experts(steps=20), 128),
    "learned_features": (LearnedFeatures(steps=20), 128),
}


def fitted(method: str) -> tuple[EnergyDetector, torch.Tensor]:
    """A detector, and photographs as bytes (100, H, W, C)."""
    recipe, size = RECIPES[method]
    counts = {"n_train": 60, "n_test": 50, "n_defective": 10}
    data = load("synthetic/nut", size=size, seed=SEED, **counts)
    options = {"aligned": True, "false_alarm_rate": 0.1, "seed": SEED, "device": "cpu"}
    detector = EnergyDetector(recipe, size, **options).fit(data.train)
    photographs = (255 * data.test[:IMAGES]).round().byte().permute(0, 2, 3, 1)
    return detector, photographs.contiguous()


def agreement(
    detector: EnergyDetector, run: Callable, photographs: torch.Tensor, batch: int
) -> dict[str, Any]:
    """Largest differences over all photographs, and verdicts that differ."""
    scores = maps = 0.0
    differ = 0
    parts = [x for x in photographs.split(batch) if len(x) == batch]
    for x in parts:
        gaps = difference(detector, run, x)
        scores, maps = max(scores, gaps[0]), max(maps, gaps[1])
        verdicts = detector.predict(x.numpy()).anomalous
        differ += int((run(x)[1] != verdicts).sum())
    return {
        "images": batch * len(parts),
        "score_difference": scores,
        "map_difference": maps,
        "verdicts_that_differ": differ,
    }


def latency(
    detector: EnergyDetector, path: Path, x: torch.Tensor, threads: int
) -> dict[str, float]:
    """Milliseconds of the two, in turn, and how many times the graph is faster."""
    clock = time.process_time if threads == 1 else time.perf_counter
    torch.set_num_threads(threads)
    run = onnx_runner(path, threads)
    assert run is not None
    pixels = x.numpy()
    ways: dict[str, Callable[[], Any]] = {
        "torch_ms": lambda: detector.predict(pixels),
        "onnx_ms": lambda: run(x),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(ROUNDS + 2):
        for name, call in ways.items():
            start = clock()
            call()
            if k >= 2:  # the first calls build what later ones reuse
                spent[name].append(1e3 * (clock() - start))
    torch.set_num_threads(1)
    ratios = [a / b for a, b in zip(*spent.values(), strict=True)]
    found = {name: statistics.median(times) for name, times in spent.items()}
    return {**found, "ratio": statistics.median(ratios)}


def measured(method: str, batches: list[int]) -> list[dict[str, Any]]:
    """One row for every batch size."""
    detector, photographs = fitted(method)
    rows = []
    for batch in batches:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "part.onnx"
            start = time.process_time()
            detector.export(path, batch=batch)
            row = {
                "method": method,
                "batch": batch,
                "image_size": RECIPES[method][1],
                "map": detector.pipeline_.map,
                "frame": type(detector.pipeline_.view.frame_).__name__,
                "export_cpu_seconds": time.process_time() - start,
                "megabytes": path.stat().st_size / 1e6,
            }
            run = onnx_runner(path)
            assert run is not None
            row |= agreement(detector, run, photographs, batch)
            for threads in (1, 2):
                spent = latency(detector, path, photographs[:batch], threads)
                row |= {f"{k}_{threads}_threads": v for k, v in spent.items()}
        rows.append(row)
    return rows


def main() -> None:
    """Measure what is missing, print it, write after every row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--methods", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = record_path(ROOT / "results", EXPERIMENTS, "speed_export")
    rows = read_json(path)["rows"] if path.exists() else []
    for method in options.methods:
        known = {row["batch"] for row in rows if row["method"] == method}
        for batch in [b for b in options.batches if b not in known]:
            rows += measured(method, [batch])
            print(rows[-1], flush=True)
            packages = ("onnx", "onnxscript", "onnxruntime")
            write_result(
                path,
                {
                    "what": "Exported graphs beside the detector: agreement and time.",
                    "command": "python benchmarks/speed_export.py",
                    "seed": SEED,
                    "rounds": ROUNDS,
                    "date": today(),
                    "versions": versions() | {n: version(n) for n in packages},
                    "hardware": hardware(),
                    "rows": rows,
                },
            )


if __name__ == "__main__":
    main()
