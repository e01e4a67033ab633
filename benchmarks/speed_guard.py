"""What guard and log cost, as a share of a training step, in short and long runs.

    python benchmarks/speed_guard.py            # prints JSON; --output FILE writes it

The step is that of the default method at 128 px (a patch energy, a batch of four,
contrast with synthetic damage). Guard and log are everything that `train` does for
safety: the checks of loss, gradient and weights, a row of the log, and a tenth of a
snapshot, since one is taken every ten steps. They are timed with a log that already
has many rows of sixteen figures. Beside them: one checkpoint, which is written every
hundred steps by default. All times are CPU time of one thread, medians of several
rounds, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ebmlib.data.corruption import damage
from ebmlib.guard import Guard
from ebmlib.losses import LossResult
from ebmlib.networks import PatchEnergy
from ebmlib.objectives import NoiseContrastive
from ebmlib.state import RunState, weight_norm
from ebmlib.training import train

ROWS = (100, 8_000, 100_000)
FIGURES = 16


def parts() -> tuple[PatchEnergy, torch.Tensor, NoiseContrastive]:
    """Network, images and objective of the default method, before its last sixth."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 3, 128, 128, generator=generator)
    energy = PatchEnergy(3, width=32, coordinates=True, stride=8)
    return energy, images, NoiseContrastive(damage, clean=0.5)


def cpu_time(act: Callable[[], object], calls: int, rounds: int = 9) -> float:
    """Seconds of CPU for one call: the median over rounds of `calls` calls."""
    spent = []
    for _ in range(rounds):
        begin = time.process_time()
        for _ in range(calls):
            act()
        spent.append((time.process_time() - begin) / calls)
    return statistics.median(spent)


def step_time(steps: int) -> float:
    """Seconds of CPU for one whole training step: the median over `steps`."""
    energy, images, objective = parts()
    moments: list[float] = []

    def note(step: int, info: dict) -> None:
        moments.append(time.process_time())

    train(
        energy,
        images,
        objective,
        steps=steps,
        batch_size=4,
        learning_rate=2e-3,
        device="cpu",
        callback=note,
    )
    late = moments[2:]  # the first steps warm up
    return statistics.median(b - a for a, b in itertools.pairwise(late))


def guard_and_log(rows: int, folder: Path) -> dict[str, float]:
    """Milliseconds of CPU for guard, log, snapshot and checkpoint after `rows` rows."""
    energy, images, objective = parts()
    cpu = torch.device("cpu")
    state = RunState(energy, objective, 1e-3, (0.9, 0.999), 0.0, 0, cpu)
    energy(images[:2]).mean().backward()
    state.optimizer.step()  # so that Adam has its moments
    result = LossResult(torch.tensor(0.5), {f"energy_{i}": 0.5 for i in range(FIGURES)})
    figures = {"loss": 0.5, **result.health}
    for step in range(1, rows + 1):
        state.log.add(step, figures)
    guard, size = Guard(), weight_norm(energy)

    def check_and_note() -> None:
        guard.check_loss(result, state.log)
        guard.check_gradient(1.0)
        guard.check_weights(size, weight_norm(energy))
        state.log.add(rows + 1, figures)

    every_step = cpu_time(check_and_note, calls=50)
    state.log.truncate(rows)
    snapshot = cpu_time(state.keep, calls=10)
    path = folder / "run.safetensors"
    checkpoint = cpu_time(lambda: state.save(path, {}), calls=1)
    return {
        "guard_and_log_ms": 1e3 * (every_step + snapshot / guard.snapshot_every),
        "snapshot_ms": 1e3 * snapshot,
        "checkpoint_ms": 1e3 * checkpoint,
    }


def main() -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=23)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    step = step_time(options.steps)
    with tempfile.TemporaryDirectory() as folder:
        costs = {rows: guard_and_log(rows, Path(folder)) for rows in ROWS}
    table = [
        {
            "rows": rows,
            **{name: round(value, 3) for name, value in cost.items()},
            "share_percent": round(0.1 * cost["guard_and_log_ms"] / step, 2),
            "checkpoint_share_percent": round(cost["checkpoint_ms"] / step / 1e3, 2),
        }
        for rows, cost in costs.items()
    ]
    text = json.dumps({"step_ms": round(1e3 * step, 1), "at": table}, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
