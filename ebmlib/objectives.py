"""What the training loop calls: a loss with its chains, noise levels or corruptions.

Each objective is called as `objective(energy, batch, generator)` and returns a
`LossResult` (chapters 4, 5, 7 and 9). Its constructor's arguments are settings and are
never written. What changes from call to call is in `state_dict`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmlib.energy import Energy, value_and_gradient
from ebmlib.langevin import langevin
from ebmlib.losses import (
    Figures,
    LossResult,
    check_noise_levels,
    contrastive_divergence,
    denoising_score_matching,
    image_cross_entropy,
    noise_contrastive,
    patch_cross_entropy,
    read_figures,
    refine_negatives,
    restoration_error,
)
from ebmlib.random import randn
from ebmlib.replay import ReplayBuffer

MEASURED_CALLS = 16  # in which `ContrastAndRestoration` measures the stiffness
# The two terms of `restoration` for an energy whose gradient is 0.
WITHOUT_GRADIENT = {"force_corrupted": 1.0, "force_normal": 0.0}

Corrupt = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass
class PersistentContrastiveDivergence:
    """Contrastive divergence with chains that continue from call to call.

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

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the chains."""
        return {"buffer": self.buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the chains of `state_dict`."""
        self.buffer.load_state_dict(state["buffer"])


@dataclass
class DenoisingScoreMatching:
    """Denoising score matching at the noise levels `sigmas` (units of x)."""

    sigmas: Sequence[float]

    def __post_init__(self) -> None:
        check_noise_levels(self.sigmas)

    def __call__(
        self, energy: Energy, batch: Tensor, generator: torch.Generator
    ) -> LossResult:
        """See `denoising_score_matching`."""
        return denoising_score_matching(
            energy, batch, sigmas=self.sigmas, generator=generator
        )


@dataclass
class NoiseContrastive:
    """Noise contrast between the batch and corruptions of the batch itself.

    An energy with `.logits` is trained patch by patch, any other one image by image.

    Attributes:
        corrupt: `corrupt(images, generator)` -> corrupted images and bool masks, on the
            device of the images; see `ebmlib.data.corruption`.
        min_cover: As in `noise_contrastive`.
        weight: As in `noise_contrastive`.
        refine_steps: Langevin steps of `refine_negatives` inside the masks; 0 for none.
        refine_snr: Drift-to-noise ratio of these steps.
        refine_noise: Noise of these steps, in units of x.
        clean: Number of clean images beside the corrupted ones, as a fraction of the
            batch, in (0, 1]. Most patches of a corrupted image are normal too, so fewer
            clean images save time.

    Raises:
        ValueError: `clean` is out of its range.
    """

    corrupt: Corrupt
    min_cover: float = 0.25
    weight: float = 0.5
    refine_steps: int = 0
    refine_snr: float = 0.5
    refine_noise: float = 0.005
    clean: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.clean <= 1:
            raise ValueError(f"clean must lie in (0, 1], got {self.clean}")

    def __call__(
        self, energy: Energy, batch: Tensor, generator: torch.Generator
    ) -> LossResult:
        """Corrupt the batch, and learn to tell the two apart."""
        clean, negatives, masks = self.prepare(energy, batch, generator)
        return noise_contrastive(
            energy,
            clean,
            negatives,
            masks if hasattr(energy, "logits") else None,
            min_cover=self.min_cover,
            weight=self.weight,
        )

    def prepare(
        self, energy: Energy, batch: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Clean images (C, *shape), negatives (B, *shape) and masks (B, H, W)."""
        negatives, masks = self.corrupt(batch, generator)
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
        return batch[: max(1, round(self.clean * len(batch)))], negatives, masks


@dataclass
class ReferenceContrast:
    """Noise contrast between the batch and draws of N(0, spread^2 I).

    The density of the noise is known, so the energy learns its own constant: at the
    minimum E(z) = -log p(z) - F log(2 pi) / 2 for z of F numbers, and log Z is known.

    Source: Gutmann, Hyvarinen (2010), *Noise-contrastive estimation*.

    Attributes:
        spread: Standard deviation of the noise, > 0.

    Raises:
        ValueError: `spread` is out of its range.
    """

    spread: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.spread < math.inf:
            raise ValueError(f"spread must be positive and finite, got {self.spread}")

    def __call__(
        self, energy: Energy, batch: Tensor, generator: torch.Generator
    ) -> LossResult:
        """Draw as many points of the noise, and learn to tell the two apart."""
        noise = self.spread * randn(batch.shape, generator, like=batch)

        def log_noise(z: Tensor) -> Tensor:
            z = z.flatten(1)
            exponent = z.square().sum(1) / (2 * self.spread**2)
            return -exponent - z.shape[1] * math.log(self.spread)

        return noise_contrastive(energy, batch, noise, log_noise=log_noise)


@dataclass
class ContrastAndRestoration(NoiseContrastive):
    """Noise contrast, and `restoration` times the loss `losses.restoration`.

    The contrast trains the energy to find the corruptions, the restoration trains its
    gradient to point at what was changed. The second term costs a second backward pass
    and needs an energy that already finds the corruptions, so the first `warmup` calls
    do without it. Both terms are computed from one pass through the network.

    Attributes:
        restoration: Factor of the restoration, > 0.
        stiffness: The spring constant of the restoration. None measures it in the
            energy after the warm-up, so that only the direction and the uniformity of
            the gradient are trained: it is then the root of mean |dE/dy|^2 over mean
            |y - x|^2 in `MEASURED_CALLS` calls, which do without the restoration too.
        warmup: Calls without the restoration at the start.

    Raises:
        ValueError: An argument is out of its range.
    """

    restoration: float = 1.0
    stiffness: float | None = 10.0
    warmup: int = 0
    calls: int = field(default=0, init=False, repr=False, compare=False)
    # Sums of mean |dE/dy|^2 and of mean |y - x|^2 over the measured calls.
    gradient_squares: float = field(default=0.0, init=False, repr=False, compare=False)
    change_squares: float = field(default=0.0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.restoration < math.inf:
            raise ValueError(
                f"restoration must be positive and finite, got {self.restoration}; "
                "NoiseContrastive does without it"
            )
        if self.stiffness is not None and not 0 < self.stiffness < math.inf:
            raise ValueError(
                f"stiffness must be positive and finite, or None, got {self.stiffness}"
            )
        if not 0 <= self.warmup < math.inf:
            raise ValueError(f"warmup must be finite and at least 0, got {self.warmup}")

    def __call__(
        self, energy: Energy, batch: Tensor, generator: torch.Generator
    ) -> LossResult:
        """Corrupt the batch, learn to tell the two apart and to undo the corruption."""
        self.calls += 1
        if self.calls <= self.warmup:
            result = super().__call__(energy, batch, generator)
            return LossResult(result.loss, result.health | WITHOUT_GRADIENT)
        clean, negatives, masks = self.prepare(energy, batch, generator)
        loss, figures, gradient = self._contrast(energy, clean, negatives, masks)
        if self.stiffness is None and self.calls <= self.warmup + MEASURED_CALLS:
            health = read_figures(
                figures
                | {
                    "gradient": _mean_square_norm(gradient[-len(batch) :]),
                    "change": _mean_square_norm(negatives - batch),
                }
            )
            self.gradient_squares += health.pop("gradient")
            self.change_squares += health.pop("change")
            return LossResult(loss, health | WITHOUT_GRADIENT)
        error, terms = restoration_error(
            gradient, batch, negatives, self._current_stiffness()
        )
        return LossResult(
            loss + self.restoration * error, read_figures(figures | terms)
        )

    def _contrast(
        self, energy: Any, clean: Tensor, negatives: Tensor, masks: Tensor
    ) -> tuple[Tensor, Figures, Tensor]:
        """The contrast, its figures, and dE/dx of clean images and negatives."""
        x = torch.cat([clean, negatives])
        if hasattr(energy, "logits"):
            logits = energy.logits(x.requires_grad_())  # (C + B, h, w)
            total = F.softplus(logits).sum()  # the energy of all images
            (gradient,) = torch.autograd.grad(total, x, create_graph=True)
            loss, figures = patch_cross_entropy(
                logits, masks, min_cover=self.min_cover, weight=self.weight
            )
            return loss, figures, gradient
        e, gradient = value_and_gradient(energy, x, create_graph=True)
        e_data, e_negatives = e[: len(clean)], e[len(clean) :]
        loss, figures = image_cross_entropy(e_data, e_negatives, weight=self.weight)
        means = {"energy_data": e_data.mean(), "energy_negatives": e_negatives.mean()}
        return loss, figures | means, gradient

    def _current_stiffness(self) -> float:
        if self.stiffness is not None:
            return self.stiffness
        return math.sqrt(max(self.gradient_squares, 1e-6) / self.change_squares)

    @property
    def advice(self) -> str:
        """What to change, beside the learning rate, if training diverges."""
        if self.stiffness is None:
            return "also a smaller restoration"
        return (
            "if it happens after the warm-up, the restoring force may be too soft for "
            "an energy that has become steep: stiffness=None measures the force (the "
            'method "experts" does), or give a smaller restoration'
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the number of calls, and what was measured."""
        measured = torch.tensor(
            [self.gradient_squares, self.change_squares], dtype=torch.float64
        )
        return {"calls": torch.tensor(self.calls), "measured": measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.calls = int(state["calls"])
        self.gradient_squares, self.change_squares = state["measured"].tolist()


def _mean_square_norm(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1).mean()
