"""What the training loop calls: a loss with its chains, noise levels or corruptions.

Each objective is called as `objective(energy, batch, generator)` and returns a
`LossResult` (chapters 4, 5 and 7). What changes from call to call is in `state_dict`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmlib.energy import Energy
from ebmlib.langevin import langevin
from ebmlib.losses import (
    LossResult,
    check_at_least_zero,
    check_sigmas,
    compare_forces,
    contrast_logits,
    contrastive_divergence,
    denoising_score_matching,
    gradient_of_sum,
    graph_gradient,
    noise_contrastive,
    refine_negatives,
    squared_norms,
)
from ebmlib.replay import ReplayBuffer

MEASURED = 16  # calls in which the slope of a trained energy is measured


UNTAUGHT = {"force_corrupted": 1.0, "force_normal": 0.0}  # those of a flat energy


Corrupt = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass
class PersistentContrastiveDivergence:
    """Contrastive divergence with chains that go on where they stopped.

    Each call draws as many chains from the buffer as there are data, runs them for
    `steps` Langevin steps and writes them back. The options are those of `langevin`
    (exactly one of `step_size` and `snr`) and `contrastive_divergence`; the health
    figures of the chains come as `chain_...`, beside `buffer_age` (mean, in visits).

    Source: Tieleman (2008), *Training restricted Boltzmann machines using
    approximations to the likelihood gradient*.
    """

    buffer: ReplayBuffer
    steps: int
    step_size: float | None = None
    snr: float | None = None
    noise: float | None = None
    clip_grad: float | None = None
    bounds: tuple[float, float] | None = (0.0, 1.0)
    autocast: bool = False
    penalty: float = 0.1
    data_noise: float = 0.0

    def __call__(
        self, energy: Energy, batch: Tensor, generator: torch.Generator
    ) -> LossResult:
        """Advance the chains, then contrast the batch with them."""
        start, index = self.buffer.sample(len(batch), generator)
        chain = langevin(
            energy,
            start.to(batch.device),
            steps=self.steps,
            step_size=self.step_size,
            snr=self.snr,
            noise=self.noise,
            clip_grad=self.clip_grad,
            bounds=self.bounds,
            generator=generator,
            autocast=self.autocast,
        )
        self.buffer.write(index, chain.x)
        result = contrastive_divergence(
            energy,
            batch,
            chain.x,
            penalty=self.penalty,
            data_noise=self.data_noise,
            generator=generator,
        )
        vitals = {f"chain_{name}": float(v) for name, v in vars(chain.health).items()}
        vitals["buffer_age"] = self.buffer.ages.float().mean().item()
        return LossResult(result.loss, result.health | vitals)

    @property
    def advice(self) -> str:
        """What to change, beside the learning rate, if training diverges."""
        return (
            "for contrastive divergence also a larger penalty, more Langevin steps, "
            "a smaller step_size or a clip_grad"
        )

    def state_dict(self) -> dict:
        """What a resumed run needs: the chains."""
        return {"buffer": self.buffer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Put the chains back."""
        self.buffer.load_state_dict(state["buffer"])


@dataclass
class DenoisingScoreMatching:
    """Denoising score matching at the noise levels `sigmas` (units of x)."""

    sigmas: Sequence[float]

    def __post_init__(self) -> None:
        check_sigmas(self.sigmas)

    def __call__(
        self, energy: Energy, batch: Tensor, generator: torch.Generator
    ) -> LossResult:
        """See `denoising_score_matching`."""
        return denoising_score_matching(
            energy, batch, sigmas=self.sigmas, generator=generator
        )


@dataclass
class NoiseContrastive:
    """Noise contrast against corruptions of the batch itself.

    `corrupt(images, generator)` returns the corrupted images and their masks. An
    energy with `.logits` is trained patch by patch, any other one image by image.
    With `refine_steps` > 0 the negatives first take that many Langevin steps inside
    their masks (`refine_negatives`); `share` and `weight` are `noise_contrastive`'s.
    With `restoration` > 0 that many times the loss `restoration` is added, with the
    spring constant `stiffness`: the gradient then learns to point at what was done.
    That costs a second backward pass, and needs a network that already knows where the
    damage is: the first `warmup` calls do without it. `stiffness=None` takes the
    constant from the energy itself, which the contrast has made as steep as it likes:
    the root of the mean |dE/dy|^2 over the mean |y - x|^2 in the `MEASURED` calls after
    the warm-up. Only the direction and the evenness of the slope are then taught.
    `clean` is how many clean images stand beside the corrupted ones, as a share of the
    batch: corrupted images are mostly normal too, so fewer clean ones save time.
    """

    corrupt: Corrupt
    share: float = 0.25
    weight: float = 0.5
    refine_steps: int = 0
    refine_snr: float = 0.5
    refine_noise: float = 0.005
    restoration: float = 0.0
    stiffness: float | None = 10.0
    clean: float = 1.0
    warmup: int = 0
    calls: int = field(default=0, init=False)
    slopes: float = field(default=0.0, init=False)  # sums over the measured calls
    pulls: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        check_at_least_zero("restoration", self.restoration)
        check_at_least_zero("warmup", self.warmup)
        if not 0 < self.clean <= 1:
            raise ValueError(f"clean must lie in (0, 1], got {self.clean}")

    def __call__(
        self, energy: Energy, batch: Tensor, generator: torch.Generator
    ) -> LossResult:
        """Corrupt the batch, and learn to tell the two apart."""
        # Corruptions draw and cut on the CPU, where the generator lives.
        negatives, masks = self.corrupt(batch.cpu(), generator)
        negatives, masks = negatives.to(batch.device), masks.to(batch.device)
        if self.refine_steps > 0:
            negatives = refine_negatives(
                energy,
                negatives,
                masks,
                steps=self.refine_steps,
                snr=self.refine_snr,
                noise=self.refine_noise,
                generator=generator,
            )
        masks = masks if hasattr(energy, "logits") else None
        options = {"share": self.share, "weight": self.weight}
        clean = batch[: max(1, round(self.clean * len(batch)))]  # (C, *shape)
        self.calls += 1
        if self.restoration == 0:
            return noise_contrastive(energy, clean, negatives, masks, **options)
        if self.calls <= self.warmup:
            contrast = noise_contrastive(energy, clean, negatives, masks, **options)
            return LossResult(contrast.loss, contrast.health | UNTAUGHT)
        x = torch.cat([clean, negatives]).requires_grad_()
        if masks is None:
            contrast = noise_contrastive(energy, clean, negatives, **options)
            slope, _ = graph_gradient(energy, x)
        else:  # both losses from one pass: a third less time
            logits = energy.logits(x)  # (C + B, h, w)
            slope = gradient_of_sum(F.softplus(logits).sum(), x)
            contrast = contrast_logits(logits, masks, **options)
        if self.stiffness is None and self.calls <= self.warmup + MEASURED:
            self.slopes += squared_norms(slope[-len(batch) :]).mean().item()
            self.pulls += squared_norms(negatives - batch).mean().item()
            return LossResult(contrast.loss, contrast.health | UNTAUGHT)
        stiffness = self.stiffness or math.sqrt(max(self.slopes, 1e-6) / self.pulls)
        force = compare_forces(slope, batch, negatives, stiffness)
        loss = contrast.loss + self.restoration * force.loss
        return LossResult(loss, contrast.health | force.health)

    @property
    def advice(self) -> str:
        """What to change, beside the learning rate, if training diverges."""
        if self.restoration == 0:
            return ""
        if self.stiffness is None:
            return "also a smaller restoration"
        return (
            "if it happens after the warm-up, the restoring force may be too soft for "
            "an energy that has become steep: stiffness=None measures the force (the "
            'methods "experts" and "thorough_contrast" do), or give a smaller '
            "restoration"
        )

    def state_dict(self) -> dict:
        """What a resumed run needs: how far the warm-up has come, and what it found."""
        found = torch.tensor([self.slopes, self.pulls], dtype=torch.float64)
        return {"calls": torch.tensor(self.calls), "found": found}

    def load_state_dict(self, state: dict) -> None:
        """Go on with the warm-up where it stopped."""
        self.calls = int(state["calls"])
        self.slopes, self.pulls = state["found"].tolist()
