"""One visible loop that trains any energy and cannot fail silently (chapter 7).

`train` reads from top to bottom: draw a batch, ask the objective for a loss, check
it, step, check again, average, log, save. Three promises stand beside the loop:

- *Guard.* A step whose loss, gradient or new weights are not finite, or run away
  beyond stated bounds, is never kept and never masked: the run goes back to its
  last good state with a smaller rate and a new seed, and says so.
- *Exact resume.* A checkpoint holds all that the next step depends on. A run that was
  stopped and resumed ends in the same bits as one that was not, on the same machine
  with the same versions and number of threads. On CUDA that also takes
  `torch.use_deterministic_algorithms(True)`.
- *Own randomness.* All draws come from one CPU generator seeded by `seed`; the global
  random state is neither read nor changed.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebmlib.checkpoint import (
    CheckpointError,
    check_folder,
    copy_tree,
    pack,
    read_checkpoint,
    unpack,
    write_checkpoint,
)
from ebmlib.devices import choose_device
from ebmlib.guard import BadStep, Guard, TrainingDiverged
from ebmlib.langevin import ChainDiverged
from ebmlib.losses import LossResult
from ebmlib.runlog import TrainingLog

KIND = "ebmlib.training"
GUARD = Guard()


Objective = Callable[[nn.Module, Tensor, torch.Generator], LossResult]


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
    guard: Guard = GUARD,
    device: str | torch.device = "auto",
    progress: bool = False,
    callback: Callable[[int, dict[str, Any]], None] | None = None,
) -> TrainingLog:
    """Train an energy by Adam on any objective; see the module's three promises.

    The energy is trained in place and stays on `device`. With `ema` > 0 it holds the
    *averaged* weights at the end; the checkpoint holds the raw ones as well. The
    average starts fast, with decay min(ema, (1 + t) / (10 + t)), so that it forgets
    the initial weights in short runs too.

    Ctrl-C (also raised in a callback) writes the last good state to `checkpoint` and
    then raises KeyboardInterrupt: at most `guard.snapshot_every` steps are computed
    again at resume, to the same bits.

    Args:
        energy: Module (B, *shape) -> (B,).
        images: Normal data (N, *shape), floating point; images are in [0, 1]. They
            stay where they are; batches are moved to the device.
        objective: `objective(energy, batch, generator)` -> LossResult, see
            `ebmlib.losses`. One with a state (chains) has `state_dict` and
            `load_state_dict`; the text of an `advice` is part of `TrainingDiverged`.
        steps: Updates in all. A finished run is resumed as finished.
        batch_size: Images for one update. Every batch is full: it runs over the end
            of one shuffled pass into the next.
        learning_rate: Adam's rate at the start.
        betas: Adam's decay rates; contrastive divergence often takes (0, 0.999).
        schedule: "cosine" (to zero at `steps`) or "constant".
        ema: Decay of the averaged weights in [0, 1); 0 for none.
        clip_norm: Largest norm of the whole gradient; math.inf for none.
        seed: Seed of every draw during training (not of the initial weights).
        augment: `augment(batch, generator)` -> batch, on the CPU.
        checkpoint: File to write to, and to resume from if it is there.
        checkpoint_every: Steps between two writes; the last step is always written.
        resume: False starts anew and overwrites the checkpoint.
        guard: Bounds and rollbacks.
        device: "auto", "cpu", "cuda" or "mps"; see `choose_device`.
        progress: One line on stderr.
        callback: `callback(step, info)` after every kept step, with `energy` (raw
            weights), `averaged` (dict of weights or None), `health`, `log`.

    Returns:
        The log of the run, with the objective's figures and `loss`,
        `gradient_norm` (before clipping) and `learning_rate`.

    Raises:
        TypeError, ValueError: An argument is of the wrong kind, shape or range.
        CheckpointError: The checkpoint is damaged, or of a run with other settings
            (the message names them). Nothing is overwritten then.
        TrainingDiverged: The guard's rollbacks are used up.
    """
    _check_arguments(energy, images, steps, batch_size, schedule, ema, guard)
    _check_numbers(learning_rate, clip_norm, checkpoint_every)
    device = choose_device(device)
    energy.to(device)
    state = _State(energy, objective, learning_rate, betas, ema, seed)
    settings = {}
    if checkpoint is not None:
        check_folder(checkpoint)
        settings = _fingerprint(energy, images, objective, augment, guard) | {
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "betas": betas,
            "schedule": schedule,
            "ema": ema,
            "clip_norm": clip_norm,
            "seed": seed,
            "checkpoint_every": checkpoint_every,
        }
        if resume and Path(checkpoint).exists():
            state.restore(_load(checkpoint, settings))
            state.log.events.append(f"resumed at step {state.step}")

    good = state.capture()
    was_training = energy.training
    energy.train()
    try:
        while state.step < steps:
            rate = state.rate_scale * learning_rate
            rate *= decay(state.step, steps, schedule)
            state.optimizer.param_groups[0]["lr"] = rate
            try:
                batch = images[state.next_indices(len(images), batch_size)].cpu()
                if augment is not None:
                    batch = augment(batch, state.generator)
                batch = batch.to(device)  # (B, *shape)
                result = objective(energy, batch, state.generator)
                guard.check_loss(result, state.log)
                state.optimizer.zero_grad()
                result.loss.backward()
                norm = nn.utils.clip_grad_norm_(energy.parameters(), clip_norm).item()
                guard.check_gradient(norm)
                before = weight_norm(energy)
                state.optimizer.step()
                guard.check_weights(before, weight_norm(energy))
                if state.step + 1 == steps:
                    guard.check_energies(energy, batch)
            except (BadStep, ChainDiverged) as problem:
                good = _roll_back(state, good, problem, guard, learning_rate)
                continue
            state.average(ema)
            state.step += 1
            figures = {"loss": result.loss.item(), **result.health}
            figures |= {"gradient_norm": norm, "learning_rate": rate}
            state.log.add(state.step, figures)
            due = state.step % checkpoint_every == 0 or state.step == steps
            if due or state.step % guard.snapshot_every == 0:
                good = state.capture()
            if due and checkpoint is not None:
                _save(checkpoint, good, settings)
            if progress:
                _show(state.step, steps, figures)
            if callback is not None:
                info = {"energy": energy, "averaged": state.averaged}
                callback(state.step, info | {"health": figures, "log": state.log})
    except KeyboardInterrupt:
        # The interrupt may have come in the middle of a step: only `good` is whole.
        state.restore(good)
        if checkpoint is not None:
            _save(checkpoint, good, settings)
        raise
    finally:
        energy.train(was_training)
        state.optimizer.zero_grad()
    if state.averaged is not None:
        energy.load_state_dict(state.averaged, strict=False)
    return state.log


def decay(step: int, steps: int, schedule: str) -> float:
    """The factor of the learning rate: a function of the step, so nothing to save."""
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def weight_norm(energy: nn.Module) -> float:
    """The norm of all parameters together; not finite if one of them is not."""
    norms = [p.detach().norm() for p in energy.parameters()]
    return torch.stack(norms).norm().item()


class _State:
    """All that the next step depends on, and the log."""

    def __init__(self, energy, objective, learning_rate, betas, ema, seed):
        self.energy = energy
        self.objective = objective
        self.optimizer = torch.optim.Adam(energy.parameters(), learning_rate, betas)
        self.averaged = None
        if ema > 0:
            named = energy.named_parameters()
            self.averaged = {name: p.detach().clone() for name, p in named}
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.empty(
            0, dtype=torch.int64
        )  # one shuffled pass over the data
        self.position = 0  # how much of that pass has been used
        self.step = 0
        self.rate_scale = 1.0
        self.rollbacks = 0
        self.log = TrainingLog()

    def next_indices(self, total: int, size: int) -> Tensor:
        """The next `size` indices of endless shuffled passes over the data: (size,)."""
        parts = []
        while size > 0:
            if self.position == len(self.order):
                self.order = torch.randperm(total, generator=self.generator)
                self.position = 0
            part = self.order[self.position : self.position + size]
            parts.append(part)
            self.position += len(part)
            size -= len(part)
        return torch.cat(parts)

    def average(self, ema: float) -> None:
        """Move the averaged weights a little towards the new ones."""
        if self.averaged is None:
            return
        keep = min(ema, (1 + self.step) / (10 + self.step))
        for name, p in self.energy.named_parameters():
            self.averaged[name].lerp_(p.detach(), 1 - keep)

    def capture(self) -> dict:
        """A copy of the state as nested dicts of tensors, numbers and text."""
        stateful = hasattr(self.objective, "state_dict")
        moments = self.optimizer.state_dict()["state"]
        return copy_tree(
            {
                "model": self.energy.state_dict(),
                "averaged": self.averaged,
                "optimizer": {str(i): value for i, value in moments.items()},
                "objective": self.objective.state_dict() if stateful else None,
                "generator": self.generator.get_state(),
                "order": self.order,
                "position": self.position,
                "step": self.step,
                "rate_scale": self.rate_scale,
                "rollbacks": self.rollbacks,
                "log": dataclasses.asdict(self.log),
            }
        )

    def restore(self, tree: dict) -> None:
        """Undo everything since `capture`; the copy stays good for another time."""
        tree = copy_tree(tree)
        self.energy.load_state_dict(tree["model"])
        self.optimizer.load_state_dict(
            self.optimizer.state_dict()
            | {"state": {int(i): value for i, value in tree["optimizer"].items()}}
        )
        if tree["averaged"] is not None:
            for name, value in tree["averaged"].items():
                self.averaged[name].copy_(value)
        if tree["objective"] is not None:
            self.objective.load_state_dict(tree["objective"])
        self.generator.set_state(tree["generator"])
        self.order = tree["order"]
        for name in ("position", "step", "rate_scale", "rollbacks"):
            setattr(self, name, tree[name])
        self.log = TrainingLog(**tree["log"])

    def reseed(self) -> None:
        """Other draws from here on: noise, chains, and a fresh pass over the data."""
        self.generator.manual_seed(self.seed + 1_000_003 * self.rollbacks)
        self.order, self.position = self.order[:0], 0


def _roll_back(
    state: _State, good: dict, problem: Exception, guard: Guard, learning_rate: float
) -> dict:
    """Go back to the last good state and try otherwise; give up after some tries."""
    failed, events = state.step + 1, state.log.events
    state.restore(good)
    state.log.events = events
    if state.rollbacks == guard.max_rollbacks:
        tried = learning_rate * state.rate_scale
        advice = getattr(state.objective, "advice", "")
        raise TrainingDiverged(
            f"training diverged at step {failed} ({problem}) and stays so after "
            f"{guard.max_rollbacks} rollbacks, with the learning rate lowered from "
            f"{learning_rate:.3g} to {tried:.3g}. Try learning_rate={tried / 10:.1g} "
            f"or less, or a smaller clip_norm{advice and '; '}{advice}. If the loss is "
            "NaN at every rate, look for NaN in the images or the energy.",
            state.log,
        ) from problem
    state.rollbacks += 1
    state.rate_scale *= guard.rate_factor
    state.reseed()
    message = (
        f"step {failed} refused: {problem}. Back to step {state.step}, learning rate "
        f"x {state.rate_scale:g}, new seed (rollback {state.rollbacks} of "
        f"{guard.max_rollbacks})"
    )
    state.log.events.append(message)
    warnings.warn(message, RuntimeWarning, stacklevel=3)
    return state.capture()


def _save(path: str | Path, tree: dict, settings: dict) -> None:
    tensors: dict[str, Tensor] = {}
    header = {"settings": settings, "state": pack(tree, tensors)}
    write_checkpoint(path, tensors, header, KIND)


def _load(path: str | Path, settings: dict) -> dict:
    tensors, header = read_checkpoint(path, KIND)
    saved, now = header["settings"], pack(settings, {})  # tuples are lists in JSON
    differing = [
        f"{name} was {saved.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(saved | now)
        if saved.get(name) != now.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"{path} belongs to a run with other settings: {'; '.join(differing)}. "
            "Give the same settings, another checkpoint file, or resume=False to "
            "start anew and overwrite it."
        )
    return unpack(header["state"], tensors)


def _fingerprint(energy, images, objective, augment, guard) -> dict:
    """What a resumed run must share with the first one, beside its numbers."""
    config = energy.config() if hasattr(energy, "config") else None
    pixels = images.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return {
        "energy": [type(energy).__name__, config],
        "weights": {n: list(p.shape) for n, p in energy.named_parameters()},
        "images": [list(images.shape), f"crc {zlib.crc32(pixels.numpy()):08x}"],
        "objective": _describe(objective),
        "augment": _describe(augment),
        "guard": _describe(guard),
    }


def _describe(thing: Any) -> Any:
    """A value as JSON: plain values as they are, settings by field, others by name."""
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, list | tuple):
        return [_describe(item) for item in thing]
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        names = [f.name for f in dataclasses.fields(thing)]
        values = {name: _describe(getattr(thing, name)) for name in names}
        return {"kind": type(thing).__name__, **values}
    return getattr(thing, "__qualname__", type(thing).__qualname__)


def _show(step: int, steps: int, figures: dict[str, float]) -> None:
    bar = "#" * (20 * step // steps)
    line = f"\r[{bar:<20}] {step}/{steps}  loss {figures['loss']:.4g} "
    sys.stderr.write(line + ("\n" if step == steps else ""))
    sys.stderr.flush()


def _check_arguments(energy, images, steps, batch_size, schedule, ema, guard) -> None:
    if not isinstance(energy, nn.Module):
        raise TypeError(
            f"only an nn.Module can be trained, got {type(energy).__name__}; wrap the "
            "function in a module whose numbers are nn.Parameter"
        )
    if not any(p.requires_grad for p in energy.parameters()):
        raise ValueError("no parameter of the energy requires a gradient")
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
    for name, value in {"steps": steps, "batch_size": batch_size}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
    if schedule not in ("cosine", "constant"):
        raise ValueError(f"schedule must be 'cosine' or 'constant', got {schedule!r}")
    if not 0 <= ema < 1:
        raise ValueError(f"ema must lie in [0, 1), got {ema}; 0.999 is common")
    if guard.snapshot_every < 1 or guard.max_rollbacks < 0:
        raise ValueError(f"snapshot_every >= 1 and max_rollbacks >= 0, got {guard}")
    if not 0 < guard.rate_factor < 1:
        raise ValueError(f"guard.rate_factor must lie in (0, 1), got {guard}")


def _check_numbers(learning_rate, clip_norm, checkpoint_every) -> None:
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    if not clip_norm > 0:
        raise ValueError(
            f"clip_norm must be positive, got {clip_norm}; math.inf turns clipping off"
        )
    if not isinstance(checkpoint_every, int) or checkpoint_every < 1:
        raise ValueError(
            f"checkpoint_every must be a whole number >= 1, got {checkpoint_every!r}"
        )
