"""Time of `langevin` over a bare loop, and over torchebm's sampler where installed.

    python benchmarks/speed_langevin.py --threads 1 --rounds 60
    python benchmarks/speed_langevin.py --threads 2 --rounds 60 --compiled

10 steps on 16 images of 3 x 64 x 64 px with `ConvEnergy(3, 16)`. The bare loop is the
shortest that samples: no checks, no figures. Every round runs each contestant once, in
an order that rotates. Printed are medians over the rounds of the time, and of the ratio
to the bare loop of the same round, with quartiles. One thread is measured in processor
time, which other programs disturb less, more threads in wall time.

torchebm (0.8.9 was used) is wanted by nothing else: install it into a throw-away
environment that sees this one's packages.

Measured on two shared cores (AMD EPYC with AVX2, PyTorch 2.13), one thread: `langevin`
takes 1.02 to 1.04 times the bare loop (medians of 30 and 70 rounds), of which the
energies after the last step are 0.025. What may make it faster, on this processor:

- weights in channels_last, `energy.to(memory_format=torch.channels_last)`: 0.85 of the
  bare loop and 0.86 of torchebm, both with the usual weights. Other rounding;
- bfloat16, `autocast=True`: 5.7 times slower, as AVX2 has no such multiplication;
- `torch.compile`: 1.14 times slower.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ebmlib.langevin import langevin
from ebmlib.networks import ConvEnergy

STEPS, STEP_SIZE, NOISE = 10, 0.1, 0.005


def seeded() -> torch.Generator:
    """The generator of every contestant."""
    return torch.Generator().manual_seed(0)


def bare(energy: nn.Module, x: Tensor) -> Tensor:
    """Langevin dynamics in four lines."""
    generator = seeded()
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(x).sum(), x)
        noise = torch.randn(x.shape, generator=generator)
        x = x.detach() - STEP_SIZE * gradient + NOISE * noise
    return x


def ours(energy: nn.Module, x: Tensor, autocast: bool = False) -> Tensor:
    """The library's sampler, health included."""
    options = {"steps": STEPS, "step_size": STEP_SIZE, "noise": NOISE}
    return langevin(energy, x, generator=seeded(), autocast=autocast, **options).x


def torchebm(energy: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The sampler of torchebm for the same chains, or None if it is not installed."""
    try:
        from torchebm.core import BaseModel
        from torchebm.samplers import LangevinDynamics
    except ImportError:
        return None

    class Wrapped(BaseModel):
        def __init__(self):
            super().__init__()
            self.energy = energy

        def forward(self, x: Tensor) -> Tensor:
            return self.energy(x)

    scale = NOISE / (2 * STEP_SIZE) ** 0.5
    sampler = LangevinDynamics(Wrapped(), step_size=STEP_SIZE, noise_scale=scale)
    return lambda x: sampler.sample(x=x, n_steps=STEPS, generator=seeded())


def contestants(options: argparse.Namespace) -> dict[str, Callable[[], Tensor]]:
    """What is timed, by name; the first is the bare loop."""
    torch.manual_seed(0)
    energy, x = ConvEnergy(3, 16), torch.rand(16, 3, 64, 64)
    last = copy.deepcopy(energy).to(memory_format=torch.channels_last)
    runs = {
        "bare loop": lambda: bare(energy, x),
        "langevin": lambda: ours(energy, x),
        "bare loop, channels_last": lambda: bare(last, x),
        "langevin, channels_last": lambda: ours(last, x),
    }
    if (other := torchebm(energy)) is not None:
        runs["torchebm"] = lambda: other(x)
    if options.bfloat16:
        runs["langevin, bfloat16"] = lambda: ours(energy, x, autocast=True)
    if options.compiled:
        # Else PyTorch 2.13 expects other strides of the padding's gradient, and stops.
        settings = {"layout_optimization": False}
        compiled = torch.compile(copy.deepcopy(energy), options=settings)
        runs["langevin, compiled"] = lambda: ours(compiled, x)
    return runs


def measure(
    runs: dict[str, Callable[[], Tensor]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every run in every round, by name."""
    names, times = [*runs], {name: [] for name in runs}
    for run in runs.values():
        run()  # warm up, and compile
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = clock()
            runs[name]()
            times[name].append(clock() - start)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = contestants(options)
    assert torch.equal(runs["bare loop"](), runs["langevin"]())  # the same chains
    clock = time.process_time if options.threads == 1 else time.perf_counter
    times = measure(runs, options.rounds, clock)
    for base in ("bare loop", "torchebm"):
        for name, values in times.items():
            if base not in times or name == base:
                continue
            ratios = [a / b for a, b in zip(values, times[base], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"{name:26} {1000 * statistics.median(values):7.1f} ms  "
                f"over {base}: {middle:.3f} ({low:.3f} to {high:.3f})"
            )


if __name__ == "__main__":
    main()
