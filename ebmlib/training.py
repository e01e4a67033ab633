"""One visible loop that trains any energy and cannot fail silently (chapter 7).

`train` reads from top to bottom: draw a batch, ask the objective for a loss, check
it, step, check again, average, log, save. Three promises stand beside the loop:

- *Guard* (`ebmlib.guard`). A step whose loss, gradient or new weights are not finite,
  or exceed stated bounds, is never kept and never masked: the run goes back to its
  last good state with a smaller rate and a new seed, and says so.
- *Exact resume* (`ebmlib.state`). A checkpoint holds all that the next step depends on.
  A run that was stopped and resumed ends in the same bits as one that was not, on the
  same machine with the same versions and number of threads. On CUDA that also takes
  `torch.use_deterministic_algorithms(True)`.
- *Own randomness.* All draws come from one CPU generator seeded by `seed`. Dropout can
  only draw from PyTorch's global random state, so `train` seeds that by `seed` too and
  puts back what was there before when it returns or raises (`ebmlib.global_random`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebmlib.arguments import real_number, whole_number
from ebmlib.checkpoint import check_folder
from ebmlib.devices import choose_device
from ebmlib.fingerprint import fingerprint
from ebmlib.guard import BadStep, Guard
from ebmlib.langevin import ChainDiverged
from ebmlib.progress import Progress, Show, check_show
from ebmlib.runlog import TrainingLog
from ebmlib.state import Objective as Objective, RunState, weight_norm


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    energy: nn.Module,
    images: Tensor,
    objective: Objective,
    *,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    schedule: str = "cosine",
    ema: float = 0.0,
    clip_norm: float = 1.0,
    seed: int = 0,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    resume: bool = True,
    guard: Guard | None = None,
    device: str | torch.device = "auto",
    progress: Show = "auto",
    callback: Callable[[int, dict[str, Any]], None] | None = None,
) -> TrainingLog:
    """Train an energy by Adam on any objective; see the module's three promises.

    The energy is trained in place and stays on `device`. With `ema` > 0 it holds the
    *averaged* weights at the end; the checkpoint holds the raw ones as well. The
    average starts fast, with decay min(ema, (1 + t) / (10 + t)), so that it forgets
    the initial weights in short runs too.

    Whatever ends the run early (an error in the objective, the augmentation or the
    callback, Ctrl-C), the energy and the objective go back to the last good state: at
    most `guard.snapshot_every` steps are lost. A request to stop (KeyboardInterrupt,
    also raised in a callback, or SystemExit) writes that state to `checkpoint` before
    it goes on; the lost steps are computed again at resume, to the same bits. After an
    error the checkpoint is the last one that was due.

    `train` works inside `torch.no_grad()` and `torch.inference_mode()`. Settings of
    PyTorch are taken as they are, such as the default dtype and autocast.

    Args:
        energy: Module (B, *shape) -> (B,). What changes in it during training must be
            in its `state_dict`.
        images: Normal data (N, *shape), floating point; images are in [0, 1]. They
            stay where they are; batches are moved to the device and take the dtype
            of the energy's parameters.
        objective: `objective(energy, batch, generator)` -> LossResult, see
            `ebmlib.losses`. One with a state (chains) has `state_dict` and
            `load_state_dict`; that state is not reset at the start of a run. Other
            public attributes are settings, which a resumed run must share. The text of
            an `advice` is part of `TrainingDiverged`.
        steps: Updates in all. A finished run is resumed as finished.
        batch_size: Images for one update. Every batch is full: it runs over the end
            of one shuffled pass into the next.
        learning_rate: Adam's rate at the start.
        betas: Adam's decay rates; contrastive divergence often takes (0, 0.999).
        schedule: "cosine" (to zero at `steps`) or "constant".
        ema: Decay of the averaged weights in [0, 1); 0 for none, 0.999 is common.
        clip_norm: Largest norm of the whole gradient; math.inf for none.
        seed: Seed of every draw during training (not of the initial weights).
        augment: `augment(batch, generator)` -> batch, where the images lie; the
            generator is one of the CPU.
        checkpoint: File to write to, and to resume from if it is there.
        checkpoint_every: Steps between two writes; the last step is always written.
        resume: False starts anew and overwrites the checkpoint.
        guard: Bounds and rollbacks; `Guard()` if it is not given.
        device: "auto", "cpu", "cuda" or "mps"; see `choose_device`.
        progress: True, False or "auto", see `ebmlib.progress.Progress`.
        callback: `callback(step, info)` after every kept step, with `energy` (raw
            weights), `averaged` (dict of weights or None), `health`, `log`.

    Returns:
        The log of the run, with the objective's figures and `loss`,
        `gradient_norm` (before clipping) and `learning_rate`.

    Raises:
        TypeError, ValueError: An argument is of the wrong kind, shape or range.
        CheckpointError: The checkpoint is damaged, or of a run with other settings
            (the message names them; `ebmlib.fingerprint` says what is compared).
            Nothing is overwritten then.
        TrainingDiverged: The guard's rollbacks are used up.
    """
    steps = whole_number("steps", steps, 1)
    batch_size = whole_number("batch_size", batch_size, 1)
    checkpoint_every = whole_number("checkpoint_every", checkpoint_every, 1)
    seed = whole_number("seed", seed, 0, 2**63)
    learning_rate = real_number("learning_rate", learning_rate, "(0, inf)")
    clip_norm = real_number("clip_norm", clip_norm, "(0, inf]")
    ema = real_number("ema", ema, "[0, 1)")
    betas = _check_betas(betas)
    guard = Guard() if guard is None else guard
    _check_data(energy, images)
    _check_functions(objective, augment=augment, callback=callback)
    _check_choices(schedule, guard, checkpoint)
    check_show(progress)
    device = choose_device(device)
    settings: dict[str, Any] = {}
    if checkpoint is not None:
        check_folder(checkpoint)
        settings = fingerprint(
            energy,
            images,
            objective,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            betas=betas,
            schedule=schedule,
            ema=ema,
            clip_norm=clip_norm,
            seed=seed,
            augment=augment,
            checkpoint_every=checkpoint_every,
            guard=guard,
        )
    energy.to(device)
    dtype = next(energy.parameters()).dtype
    state = RunState(energy, objective, learning_rate, betas, ema, seed, device)
    with (
        state.running(checkpoint, settings, resume),
        Progress(steps, progress, start=state.step) as bar,
    ):
        while state.step < steps:
            rate = state.rate_scale * learning_rate
            rate *= decay(state.step, steps, schedule)
            state.optimizer.param_groups[0]["lr"] = rate
            try:
                batch = state.next_batch(images, batch_size)
                if augment is not None:
                    batch = augment(batch, state.generator)
                batch = batch.to(device, dtype)  # (B, *shape)
                result = objective(energy, batch, state.generator)
                loss = guard.check_loss(result, state.log)
                state.optimizer.zero_grad()
                result.loss.backward()
                norm = nn.utils.clip_grad_norm_(energy.parameters(), clip_norm).item()
                guard.check_gradient(norm)
                state.optimizer.step()
                size = weight_norm(energy)
                guard.check_weights(state.weight_norm, size)
                if state.step + 1 == steps:
                    guard.check_energies(energy, batch)
            except (BadStep, ChainDiverged) as problem:
                guard.roll_back(state, problem)
                continue
            state.average()
            state.step, state.weight_norm = state.step + 1, size
            figures = {"loss": loss, **result.health}
            figures |= {"gradient_norm": norm, "learning_rate": rate}
            state.log.add(state.step, figures)
            due = state.step % checkpoint_every == 0 or state.step == steps
            if due or state.step % guard.snapshot_every == 0:
                state.keep()
            if due and checkpoint is not None:
                state.save(checkpoint, settings)
            bar.update(state.step, f"loss {loss:.4g}")
            if callback is not None:
                info = {"energy": energy, "averaged": state.averaged}
                callback(state.step, info | {"health": figures, "log": state.log})
    if state.averaged is not None:
        energy.load_state_dict(state.averaged, strict=False)
    return state.log


def decay(step: int, steps: int, schedule: str) -> float:
    """The factor of the learning rate: a function of the step, so nothing to save."""
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def _check_betas(betas: Any) -> tuple[float, float]:
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"betas must be two numbers in [0, 1), got {betas!r}")
    one, two = (real_number("each of betas", beta, "[0, 1)") for beta in betas)
    return one, two


def _check_functions(objective: Any, **functions: Any) -> None:
    if not callable(objective):
        raise TypeError(
            "objective must be callable as objective(energy, batch, generator), got "
            f"{type(objective).__name__}; see ebmlib.objectives"
        )
    if hasattr(objective, "state_dict") and not hasattr(objective, "load_state_dict"):
        raise TypeError("an objective with state_dict also needs load_state_dict")
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be callable or None, got {function!r}")


def _check_choices(schedule: Any, guard: Any, checkpoint: Any) -> None:
    if schedule not in ("cosine", "constant"):
        raise ValueError(f"schedule must be 'cosine' or 'constant', got {schedule!r}")
    if not isinstance(guard, Guard):
        raise TypeError(f"guard must be a Guard or None, got {guard!r}")
    if not isinstance(checkpoint, str | Path | None):
        raise TypeError(f"checkpoint must be a path or None, got {checkpoint!r}")


def _check_data(energy: Any, images: Any) -> None:
    if not isinstance(energy, nn.Module):
        raise TypeError(
            f"only an nn.Module can be trained, got {type(energy).__name__}; wrap the "
            "function in a module whose numbers are nn.Parameter"
        )
    if not any(p.requires_grad for p in energy.parameters()):
        raise ValueError("no parameter of the energy requires a gradient")
    if any(p.is_inference() for p in energy.parameters()):
        raise ValueError(
            "the energy was made inside torch.inference_mode(), so it cannot be "
            "trained; make it outside"
        )
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images must be a floating-point tensor (N, *shape), got {got}"
        )
    if images.ndim < 2 or len(images) == 0:
        raise ValueError(
            f"images must be (N, *shape), N >= 1, got {tuple(images.shape)}"
        )
    if not images.isfinite().all():
        bad = (~images.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        raise ValueError(f"images holds NaN or infinity, first in image {bad[0]}")
