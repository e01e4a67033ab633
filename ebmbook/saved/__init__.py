"""Runs that come with the book, trained longer than a chapter may take.

Chapters 8 to 11 and 14 load one, because a chapter must run in a minute. Nothing about
them is special: a command trains each again, bit for bit on the same kind of processor,
from the drawn data alone.

`load_saved("nut_cd_2000")` is chapter 7's own run with 2,000 updates: contrastive
divergence on 102 normal images of the drawn nut at 32 px, chains started from a fitted
Gaussian, no image of damage anywhere. `saved_detector()` is a `Contrast` detector of
the nut at 64 px, which has learned from drawn damage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebmlib.checkpoint import read_checkpoint, write_checkpoint
from ebmlib.detector import EnergyDetector
from ebmlib.langevin import langevin
from ebmlib.networks import ConvEnergy
from ebmlib.objectives import PersistentContrastiveDivergence
from ebmlib.replay import ReplayBuffer, fitted_gaussian
from ebmlib.runlog import TrainingLog
from ebmlib.training import train

FOLDER = Path(__file__).parent
COMMAND = "python tools/train_saved_detector.py"
SEED, SIZE, STEPS = 0, 64, 4000

CD_COMMAND = "python tools/train_saved_energy.py"
CD_SIZE = 32  # px; the side of the images that the energies of chapter 7 learn
CD_NOISE = 0.01  # of a Langevin step, and of the data
CD_TRAINING = {"batch_size": 16, "learning_rate": 1e-3, "betas": (0.0, 0.999)}
KIND = "ebmbook.saved_run"


@dataclass(frozen=True)
class SavedRun:
    """One training run of chapter 7.

    Attributes:
        energy: the network with its last weights, on the CPU.
        step_size: of its Langevin chains.
        noise: of its Langevin chains.
        health: vital signs by name, (K,), at the updates `health["step"]`; each value
            is the mean of the updates since the one before.
        chains: the chains that are oldest at the end, (16, C, H, W) in [0, 1].
        ages: their ages in rounds, (16,).
        settings: category, size, seed, number of updates and what else was set.
    """

    energy: ConvEnergy
    step_size: float
    noise: float
    health: dict[str, Tensor]
    chains: Tensor
    ages: Tensor
    settings: dict[str, Any]


def cd_run(
    images: Tensor, seed: int = 0
) -> tuple[ConvEnergy, PersistentContrastiveDivergence]:
    """A fresh energy and its objective, with the settings of chapter 7.

    Args:
        images: normal training images, (N, C, H, W) in [0, 1].
        seed: of the initial weights and of the first chains.
    """
    torch.manual_seed(seed)  # the initial weights
    energy = ConvEnergy(images.shape[1], width=16, depth=3)
    generator = torch.Generator().manual_seed(seed)
    start = fitted_gaussian(images)
    buffer = ReplayBuffer(128, start, fresh=0.1, generator=generator)
    probe = langevin(  # sets the step, once, by its drift-to-noise ratio
        energy,
        start(8, generator),
        steps=1,
        snr=0.04,
        noise=CD_NOISE,
        generator=generator,
    )
    return energy, PersistentContrastiveDivergence(
        buffer,
        steps=20,
        step_size=probe.health.step_size,
        noise=CD_NOISE,
        penalty=0.01,
        data_noise=CD_NOISE,
    )


def train_cd(
    images: Tensor, steps: int, seed: int = 0
) -> tuple[ConvEnergy, PersistentContrastiveDivergence, TrainingLog]:
    """The run of chapter 7 on other images, or for longer; on the CPU."""
    energy, objective = cd_run(images, seed)
    options: dict[str, Any] = dict(CD_TRAINING)
    log = train(
        energy, images, objective, steps=steps, seed=seed, device="cpu", **options
    )
    return energy, objective, log


def load_saved(name: str = "nut_cd_2000") -> SavedRun:
    """A saved run of chapter 7; `CD_COMMAND` trains it again.

    Raises:
        ValueError: there is none of this name.
    """
    path = FOLDER / f"{name}.safetensors"
    if "_cd_" not in name or not path.exists():
        known = sorted(p.stem for p in FOLDER.glob("*_cd_*.safetensors"))
        raise ValueError(
            f"no saved run {name!r}, only {known}; train one: "
            "ebmbook.saved.train_cd(images, steps=2000)"
        )
    tensors, header = read_checkpoint(path, KIND)
    energy = ConvEnergy(**header["energy"])
    energy.load_state_dict(_parts(tensors, "energy."))
    return SavedRun(
        energy=energy,
        step_size=header["step_size"],
        noise=header["noise"],
        health=_parts(tensors, "health."),
        chains=(tensors["chains"].float() + 0.5) / 256,
        ages=tensors["ages"],
        settings=header["settings"],
    )


def save_cd(
    path: Path,
    energy: ConvEnergy,
    objective: PersistentContrastiveDivergence,
    log: TrainingLog,
    settings: dict[str, Any],
) -> None:
    """Write what `load_saved` reads; vital signs as means of ten updates."""
    rows = len(log) // 10
    health = {"step": torch.arange(1, rows + 1) * 10}
    for key, column in log.health.items():
        values = torch.tensor(list(column)[: 10 * rows], dtype=torch.float32)
        health[key] = values.view(rows, 10).mean(1)
    buffer = objective.buffer
    oldest = buffer.ages.argsort(descending=True, stable=True)[:16]
    tensors = {f"energy.{k}": v for k, v in energy.state_dict().items()}
    tensors |= {f"health.{k}": v for k, v in health.items()}
    tensors |= {"chains": buffer.pixels[oldest], "ages": buffer.ages[oldest]}
    header = {
        "energy": energy.config(),
        "step_size": objective.step_size,
        "noise": objective.noise,
        "settings": settings,
    }
    write_checkpoint(path, tensors, header, KIND)


def saved_detector(category: str = "synthetic/nut") -> EnergyDetector:
    """The detector of a drawn category, on the CPU.

    Raises:
        ValueError: there is none for this category.
    """
    path = FOLDER / f"{category.replace('/', '_')}.safetensors"
    if not path.exists():
        known = sorted(
            p.stem.replace("_", "/", 1) for p in FOLDER.glob("synthetic_*.safetensors")
        )
        raise ValueError(
            f"no saved detector for {category!r}, only for {known}; train one: "
            "EnergyDetector(image_size=64).fit(images)"
        )
    return EnergyDetector.load(path, device="cpu")


def _parts(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without the beginning."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
