"""What a detector costs beside its network: time of `predict`, memory of `fit`.

    python benchmarks/speed_detector.py             # prints JSON, or --output FILE

`predict` is compared with one forward and one backward pass of the same network on the
same views, which is the least that a score and a gradient can cost. The memory of `fit`
is the growth of the process' largest resident memory, over the bytes of the resized
training set, for two numbers of images; each is measured in a process of its own, with
one training step. The AU-PRO is compared with the definition of Bergmann et al. (2021),
one PRO for every distinct score. Times are CPU times of one thread, medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import label

from ebmlib import EnergyDetector, Experts, load
from ebmlib.benchmark import hardware, peak_memory_mb, versions
from ebmlib.energy import value_and_gradient
from ebmlib.metrics import au_pro

SIZE, COUNT, ROUNDS = 256, 32, 7
IMAGES = (100, 300)  # training images whose memory is compared
PART = {"n_test": COUNT, "n_defective": 1, "size": SIZE}


def seconds(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median CPU time of a call."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def predicting() -> dict[str, float]:
    """Seconds for 32 images at 256 px, and the two ratios."""
    data = load("synthetic/nut", n_train=40, **PART)
    detector = EnergyDetector(
        Experts(steps=1), SIZE, false_alarm_rate=0.2, device="cpu"
    ).fit(data.train)
    images = data.test[:COUNT]
    seen = detector.pipeline_.view(images).images
    found = {
        "predict": seconds(lambda: detector.predict(images)),
        "view": seconds(lambda: detector.pipeline_.view(images)),
        "network": seconds(lambda: value_and_gradient(detector.energy_, seen)),
    }
    found["predict over network"] = found["predict"] / found["network"]
    found["share of the view"] = found["view"] / found["predict"]
    return found


def fitting(count: int) -> float:
    """Peak memory of a fit over the bytes of its training set."""
    data = load("synthetic/nut", n_train=count, **PART)
    detector = EnergyDetector(Experts(steps=1), SIZE, device="cpu")
    detector.fit(data.train[:30])  # what any fit needs is loaded and allocated now
    before = peak_memory_mb()
    detector.fit(data.train)
    after = peak_memory_mb()
    if before is None or after is None:
        return float("nan")
    return (after - before) * 2**20 / (data.train.numel() * 4)


def every_threshold(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """AU-PRO by its definition: the curve over all distinct scores, by trapezoids."""
    regions, total = [], np.sort(maps[~masks])[::-1]
    for one, mask in zip(maps, masks, strict=True):
        labels, count = label(mask, np.ones((3, 3)))
        regions += [np.sort(one[labels == i + 1]) for i in range(count)]
    cuts = np.unique(maps)[::-1]
    fpr = np.searchsorted(-total, -cuts, side="right") / len(total)
    kept = [1 - np.searchsorted(r, cuts, side="left") / len(r) for r in regions]
    x, y = np.append(0, fpr), np.append(0, np.mean(kept, axis=0))
    end = np.interp(limit, x, y)
    inside = x < limit
    x, y = np.append(x[inside], limit), np.append(y[inside], end)
    return float(np.trapezoid(y, x) / limit)


def measuring() -> dict[str, float]:
    """Seconds of the exact AU-PRO and of the definition, on 40 maps of 128 px."""
    rng = np.random.default_rng(0)
    masks = np.zeros((40, 128, 128), bool)
    for mask, (i, j) in zip(masks[::2], rng.integers(0, 100, (20, 2)), strict=True):
        mask[i : i + 20, j : j + 12] = True
    maps = rng.standard_normal(masks.shape) + masks
    gap = abs(au_pro(maps, masks) - every_threshold(maps, masks))
    ours = seconds(lambda: au_pro(maps, masks))
    theirs = seconds(lambda: every_threshold(maps, masks), 3)
    return {"au_pro": ours, "definition over au_pro": theirs / ours, "gap": gap}


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--fit", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.fit:
        print(fitting(options.fit))
        return
    memory = {}
    for count in IMAGES:
        command = [sys.executable, __file__, "--fit", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        memory[f"{count} images"] = float(done.stdout)
    result = {
        "command": "python benchmarks/speed_detector.py",
        "predict, 32 images at 256 px": predicting(),
        "fit, peak memory over the training set": memory,
        "au_pro, 40 maps of 128 px": measuring(),
        "versions": versions(),
        "hardware": hardware(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
