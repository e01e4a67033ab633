"""Kill a training run fifty times by SIGKILL; nothing may be lost (chapter 7).

    python benchmarks/kill_drill.py            # writes a record in results/

A child process trains an energy by contrastive divergence with persistent chains and
writes a checkpoint after every step. It is killed at a random moment, fifty times;
each time the checkpoint must be whole (its checksum is read) and the next child goes
on from it. In the end all tensors and the log must equal, bit for bit, those of a run
that nobody killed.
"""

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch._dynamo  # Adam imports it at its first step: once here, not per child

import ebmlib
from ebmlib.benchmark import today
from ebmlib.checkpoint import read_checkpoint
from ebmlib.networks import ConvEnergy
from ebmlib.objectives import PersistentContrastiveDivergence
from ebmlib.replay import ReplayBuffer, uniform_noise
from ebmlib.results_files import DRILLS, record_path, write_result
from ebmlib.training import train

ROOT = Path(__file__).resolve().parents[1]


def run(path: Path, steps: int, seed: int) -> None:
    """Train a small image energy, writing a checkpoint after every step."""
    torch.manual_seed(seed)  # initial weights only
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(40, 3, 32, 32, generator=generator)
    buffer = ReplayBuffer(128, uniform_noise((3, 32, 32)), generator=generator)
    objective = PersistentContrastiveDivergence(buffer, steps=2, snr=0.5, noise=0.01)
    train(
        ConvEnergy(3, width=8, depth=3),
        images,
        objective,
        steps=steps,
        batch_size=8,
        ema=0.99,
        seed=seed,
        checkpoint=path,
        checkpoint_every=1,
        device="cpu",
    )


def start(path: Path, steps: int, seed: int) -> int:
    """Fork a child that trains; fork, as it spares fifty imports of torch."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run(path, steps, seed)
            code = 0
        finally:
            os._exit(code)
    return pid


def contents(path: Path) -> tuple[dict, dict]:
    """All tensors and the header, the list of events (resumes) taken out."""
    tensors, header = read_checkpoint(path, "ebmlib.training")
    header["events"] = header["state"]["log"].pop("events")
    return tensors, header


def drill(folder: Path, kills: int, steps: int, seed: int) -> dict:
    """Kill, check and resume; return what was found."""
    path, whole = folder / "killed.safetensors", folder / "whole.safetensors"
    chance, reached, in_write, damaged = random.Random(seed), 0, 0, 0
    known = {path}
    for _ in range(kills):
        pid = start(path, steps, seed)
        while reached == step_of(path):  # until the child has written something new
            time.sleep(0.005)
        time.sleep(0.2 * chance.random())
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            raise RuntimeError("the run ended before it could be killed: raise --steps")
        left = set(folder.iterdir()) - known  # an unfinished file
        in_write, known = in_write + bool(left), known | left
        try:
            reached = step_of(path)
        except ValueError:
            damaged += 1
            break
    if not damaged:
        for target in (path, whole):
            if os.waitstatus_to_exitcode(os.waitpid(start(target, steps, seed), 0)[1]):
                raise RuntimeError(f"the run to {target} failed")
    return {
        "kills": kills,
        "kills_during_a_write": in_write,
        "damaged_checkpoints": damaged,
        "step_at_last_kill": reached,
        "bit_identical": not damaged and _same(contents(path), contents(whole)),
    }


def step_of(path: Path) -> int:
    """The step of a checkpoint (0 if there is none), after reading all of it."""
    if not path.exists():
        return 0
    return contents(path)[1]["state"]["step"]


def _same(one: tuple[dict, dict], other: tuple[dict, dict]) -> bool:
    one[1].pop("events"), other[1].pop("events")
    tensors = all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    return tensors and set(one[0]) == set(other[0]) and one[1] == other[1]


def main() -> int:
    """Run the drill and write its result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        outcome = drill(Path(folder), options.kills, options.steps, options.seed)
    result = {
        "settings": {"steps": options.steps, "method": "contrastive_divergence"},
        "seed": options.seed,
        **outcome,
        "seconds": round(time.perf_counter() - begin, 1),
        "versions": {
            "ebmlib": ebmlib.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, CPU, 1 thread",
        "command": (
            f"python benchmarks/kill_drill.py --kills {options.kills} "
            f"--steps {options.steps} --seed {options.seed}"
        ),
        "date": today(),
    }
    write_result(record_path(options.out, DRILLS, "kill_drill"), result)
    print(json.dumps(result, indent=2))
    return 0 if result["bit_identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
