"""Time of a training step of the default method, and of its parts.

    python benchmarks/speed_step.py --threads 1
    python benchmarks/speed_step.py --threads 2 --before ../before

The step is that of `experts` at 128 px: a batch of four, augmentation, `damage`, the
loss, its gradient, clipping and Adam; guard and log are left out. "contrast" is a step
of the warm-up, "restoration" one after it, "step" their mean over a run, of which the
warm-up is 5/6. `--before` names another checkout of the repository, for example a `git
worktree` of an older commit. It is measured in turns with this one, in a process of its
own, with the same seeds. Printed are medians over the rounds, in ms, and the median of
the ratios of the rounds. One thread is measured in CPU time, which other work on the
machine disturbs little, more threads in wall time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent.parent
SIZE, BATCH, WARMUP = 128, 4, 5 / 6


def parts() -> dict[str, Callable[[int], object]]:
    """What is timed, by name: functions of a seed."""
    from ebmlib import objectives
    from ebmlib.data.augmentation import Augment
    from ebmlib.data.corruption import damage
    from ebmlib.networks import PatchEnergy

    torch.manual_seed(0)
    energy = PatchEnergy(3, width=32, coordinates=True, stride=8)
    optimizer = torch.optim.Adam(energy.parameters(), 1e-4)
    coarse = torch.rand(64, 3, SIZE // 4, SIZE // 4)
    images = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic")
    images = images.clamp(0, 1)
    augment = Augment(rotate=6, translate=0.02, border="edge", keep=0.33)
    contrast = objectives.NoiseContrastive(damage, clean=0.5)
    # Before it had a class of its own, the restoration was an option of the contrast.
    both: Any = objectives.NoiseContrastive
    both = getattr(objectives, "ContrastAndRestoration", both)
    restoration = both(damage, clean=0.5, restoration=0.3)

    def batch(seed: int) -> torch.Tensor:
        first = BATCH * seed % len(images)
        return images[first : first + BATCH]

    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def step(objective: Callable, seed: int) -> None:
        draws = generator(seed)
        result = objective(energy, augment(batch(seed), draws), draws)
        optimizer.zero_grad()
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(energy.parameters(), 1.0)
        optimizer.step()

    return {
        "augmentation": lambda seed: augment(batch(seed), generator(seed)),
        "corruption": lambda seed: damage(batch(seed), generator(seed)),
        "contrast": lambda seed: step(contrast, seed),
        "restoration": lambda seed: step(restoration, seed),
    }


def work(threads: int, calls: int) -> None:
    """Measure one round for every line on stdin: print the ms of one call as JSON."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    timed = parts()
    for run in timed.values():  # what is only done once
        run(0)
    for line in sys.stdin:
        first, spent = int(line) * calls, {}
        for name, run in timed.items():
            begin = clock()
            for seed in range(first, first + calls):
                run(seed)
            spent[name] = 1e3 * (clock() - begin) / calls
        step = WARMUP * spent["contrast"] + (1 - WARMUP) * spent["restoration"]
        print(json.dumps(spent | {"step": step}), flush=True)


class Checkout:
    """A process that measures the library of one checkout, a round at a time."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        if not (folder / "ebmlib").is_dir():
            raise SystemExit(f"{folder} has no folder ebmlib: name a checkout of it")
        numbers = ["--threads", str(options.threads), "--calls", str(options.calls)]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", *numbers],
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round(self, number: int) -> dict[str, float]:
        """The times of one round, in ms a call."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(number, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=8, help="in a round, of each part")
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.threads, options.calls)
    checkouts = {"now": Checkout(HERE, options)}
    if options.before is not None:
        checkouts["before"] = Checkout(options.before.resolve(), options)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for number in range(options.rounds):
        turns = list(checkouts.items())[:: 1 if number % 2 else -1]
        for name, checkout in turns:
            found[name].append(checkout.round(number))
    for checkout in checkouts.values():
        checkout.close()
    clock = "CPU" if options.threads == 1 else "wall"
    print(f"{clock} time in ms, threads {options.threads}, rounds {options.rounds}")
    for part in found["now"][0]:
        now = [times[part] for times in found["now"]]
        line = f"{part:13s} {statistics.median(now):8.1f}"
        if "before" in found:
            before = [times[part] for times in found["before"]]
            ratio = statistics.median(a / b for a, b in zip(now, before, strict=True))
            line += f"   before {statistics.median(before):8.1f}   ratio {ratio:.2f}"
        print(line)


if __name__ == "__main__":
    main()
