"""All that the next training step depends on: kept, put back, saved and loaded.

`RunState` holds the weights, Adam's moments, the averaged weights, the state of the
objective (such as chains), the place in the shuffled data, and the random states. The
snapshot in memory and the checkpoint on the disk have the same content, so a rollback
and a resume are the same operation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebmlib.checkpoint import (
    CheckpointError,
    copy_tree,
    pack,
    read_checkpoint,
    unpack,
    write_checkpoint,
)
from ebmlib.fingerprint import differences
from ebmlib.global_random import (
    global_random,
    private_global_random,
    seed_global_random,
    set_global_random,
)
from ebmlib.losses import LossResult
from ebmlib.runlog import TrainingLog

KIND = "ebmlib.training"
FORMAT = 2  # 1 had the log in the header
NUMBERS = ("position", "step", "rate_scale", "rollbacks", "weight_norm")

logger = logging.getLogger(__name__)
# Silent unless the program that uses the library sets up logging.
logging.getLogger("ebmlib").addHandler(logging.NullHandler())

Objective = Callable[[nn.Module, Tensor, torch.Generator], LossResult]


class RunState:
    """All that the next step depends on, and the log.

    Args:
        energy, objective, learning_rate, betas, ema, seed: Those of `train`.
        device: Where the energy lies.

    Attributes:
        generator: CPU generator of all draws that `train` and the objective make.
        averaged: Running average of each parameter by name; None without `ema`.
        order: One shuffled pass over the data (N,); `position` of it have been used.
        step: Number of steps that were kept.
        rate_scale: Factor of the learning rate after `rollbacks` rollbacks.
        weight_norm: Norm of all parameters together after the last step.
        log: The rows of the steps that were kept.
        stateful: Whether the objective has a state.
        copies: Whether its `state_dict` returns copies, which `keep` need not copy.
        good: The last snapshot, see `keep`.
    """

    def __init__(
        self,
        energy: nn.Module,
        objective: Objective,
        learning_rate: float,
        betas: tuple[float, float],
        ema: float,
        seed: int,
        device: torch.device,
    ):
        self.energy = energy
        self.objective: Any = objective  # may have a state_dict
        self.learning_rate, self.ema = learning_rate, ema
        self.seed, self.device = seed, device
        self.optimizer = torch.optim.Adam(energy.parameters(), learning_rate, betas)
        self.averaged: dict[str, Tensor] | None = None
        if ema > 0:
            named = energy.named_parameters()
            self.averaged = {name: p.detach().clone() for name, p in named}
        self.generator = torch.Generator(device="cpu")
        self.order = torch.empty(0, dtype=torch.int64, device="cpu")
        self.position = self.step = self.rollbacks = 0
        self.rate_scale, self.weight_norm = 1.0, weight_norm(energy)
        self.log = TrainingLog()
        self.stateful = hasattr(objective, "state_dict")
        self.copies = self.stateful and _hands_out_copies(objective)
        self.good: dict[str, Any] = {}
        self._spare: dict[str, Any] = {}

    @contextmanager
    def running(
        self, path: str | Path | None, settings: Mapping[str, Any], resume: bool
    ) -> Iterator[None]:
        """Inside, steps can be made. Starts anew, or where the checkpoint ends.

        However it ends, the modes of the energy's parts and the global random state
        are then as before. After an exception the run is at its last snapshot; one that
        asks to stop (KeyboardInterrupt, SystemExit) also writes that to `path`, unless
        no step was made.

        Args:
            path: The checkpoint; None for none.
            settings: See `fingerprint`.
            resume: Whether to go on from a checkpoint that is there.

        Raises:
            TypeError: The state of the objective could not be saved.
            CheckpointError: See `load`.
        """
        modes = [(part, part.training) for part in self.energy.modules()]
        with private_global_random(self.device):
            self.reseed()
            self.keep()
            try:
                if path is not None:
                    pack(self.good, {})
                    if resume and Path(path).exists():
                        self.load(path, settings)
                self.energy.train()
                yield
            except BaseException as problem:
                self.go_back()
                stop = not isinstance(problem, Exception) and self.step > 0
                if path is not None and stop:
                    self.save(path, settings)
                raise
            finally:
                self.optimizer.zero_grad()
                for part, mode in modes:
                    part.training = mode

    def next_batch(self, images: Tensor, size: int) -> Tensor:
        """The next images of endless shuffled passes: (size, *shape), where they lie.

        A batch runs over the end of one pass into the next, so it is always full.
        """
        parts = []
        while size > 0:
            if self.position == len(self.order):
                self.order = torch.randperm(
                    len(images), generator=self.generator, device="cpu"
                )
                self.position = 0
            part = self.order[self.position : self.position + size]
            parts.append(part)
            self.position += len(part)
            size -= len(part)
        return images[torch.cat(parts).to(images.device)]

    def average(self) -> None:
        """Move the averaged weights a little towards the new ones."""
        if self.averaged is None:
            return
        keep = min(self.ema, (1 + self.step) / (10 + self.step))
        for name, p in self.energy.named_parameters():
            self.averaged[name].lerp_(p.detach(), 1 - keep)

    def reseed(self) -> None:
        """Other draws from here on: noise, chains, and a fresh pass over the data."""
        seed = self.seed + 1_000_003 * self.rollbacks
        self.generator.manual_seed(seed)
        seed_global_random(self.device, seed + 500_009)  # not the generator's numbers
        self.order = torch.empty(0, dtype=torch.int64, device="cpu")
        self.position = 0

    def keep(self) -> None:
        """Take a snapshot: what `go_back` and `save` refer to from now on.

        Every tensor is copied once, into the memory of the last snapshot but one. Of
        the log only the length is noted, as rows are never changed.
        """
        moments = self.optimizer.state_dict()["state"]
        now = {
            "model": self.energy.state_dict(),
            "averaged": self.averaged,
            "optimizer": {str(i): value for i, value in moments.items()},
            "generator": self.generator.get_state(),
            "random": global_random(self.device),
            "order": self.order,
            "rows": len(self.log),
            **{name: getattr(self, name) for name in NUMBERS},
        }
        # `good` stays whole while the copy is made: Ctrl-C may come in the middle.
        good = copy_tree(now, self._spare)
        found = self.objective.state_dict() if self.stateful else None
        spare = self._spare.get("objective")
        good["objective"] = found if self.copies else copy_tree(found, spare)
        self.good, self._spare = good, self.good

    def go_back(self) -> None:
        """Undo everything since `keep`, except the events of the log."""
        self._restore(self.good)
        self.log.truncate(self.good["rows"])

    def save(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        """Write the last snapshot to a checkpoint, with the log up to there."""
        state = {k: v for k, v in self.good.items() if k != "rows"}
        state["log"] = self.log.state_dict(self.good["rows"])
        tensors: dict[str, Tensor] = {}
        header = {"format": FORMAT, "settings": settings, "state": pack(state, tensors)}
        write_checkpoint(path, tensors, header, KIND)

    def load(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        """Go on where the run that wrote the checkpoint was.

        Raises:
            FileNotFoundError: There is no such file.
            CheckpointError: The file is damaged, or of a run with other settings. The
                state is then that of the last snapshot.
        """
        tensors, header = read_checkpoint(path, KIND)
        anew = "another checkpoint file, or resume=False to start anew and overwrite it"
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} was written by another version of ebmlib, whose runs cannot "
                f"be resumed exactly. Give {anew}."
            )
        if differing := differences(header.get("settings"), settings):
            raise CheckpointError(
                f"{path} belongs to a run with other settings: {'; '.join(differing)}. "
                f"Give the same settings, {anew}."
            )
        try:
            state = unpack(header["state"], tensors)
            self._restore(state)
            self.log.load_state_dict(state["log"])
            self._check_place(settings["steps"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as e:
            self.log = TrainingLog()
            self.go_back()
            raise CheckpointError(
                f"{path} does not hold the state of such a run ({e}). Give {anew}."
            ) from e
        self.log.events.append(f"resumed at step {self.step}")
        logger.info("resumed %s at step %d", path, self.step)
        self.keep()

    def _restore(self, state: dict[str, Any]) -> None:
        """Take over what `keep` copied; the copy stays good for another time."""
        state = copy_tree(state)
        self.energy.load_state_dict(state["model"])
        moments = {int(i): value for i, value in state["optimizer"].items()}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        if self.averaged is not None:
            for name, average in self.averaged.items():
                average.copy_(state["averaged"][name])
        if state["objective"] is not None:
            self.objective.load_state_dict(state["objective"])
        self.generator.set_state(state["generator"])
        set_global_random(self.device, state["random"])
        self.order = state["order"]
        for name in NUMBERS:
            setattr(self, name, state[name])

    def _check_place(self, steps: int) -> None:
        if not (0 <= self.step == len(self.log) <= steps):
            raise ValueError(f"step {self.step} of {steps}, {len(self.log)} rows")
        if not 0 <= self.position <= len(self.order):
            raise ValueError(f"position {self.position} of {len(self.order)}")


def _hands_out_copies(objective: Any) -> bool:
    """Whether `state_dict` returns copies: two calls then share no memory."""
    states = objective.state_dict(), objective.state_dict()
    one, other = ({t.data_ptr() for t in _tensors(state)} for state in states)
    return bool(one) and not one & other


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors with any content in nested dicts and lists."""
    if isinstance(tree, Tensor) and tree.numel() > 0:
        yield tree
    elif isinstance(tree, Mapping | list | tuple):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _tensors(part)


def weight_norm(energy: nn.Module) -> float:
    """The norm of all parameters together; not finite if one of them is not."""
    return nn.utils.get_total_norm([p.detach() for p in energy.parameters()]).item()
