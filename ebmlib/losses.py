"""Ways to learn an energy from normal images alone (chapters 4 and 5).

Every loss takes an energy and a batch and returns a `LossResult`: the loss to
differentiate, and its health figures as plain floats. The sign convention never
changes: p(x) = exp(-E(x)) / Z, so that a *low* energy means normal.

The plain functions are the mathematics. The three classes at the end bind a loss
to what it needs (chains, noise levels, corruptions) so that `ebmlib.training.train`
can call each of them as `objective(energy, batch, generator)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmlib.energy import Energy, check_energy
from ebmlib.langevin import ReplayBuffer, langevin

MEASURED = 16  # calls in which the slope of a trained energy is measured
UNTAUGHT = {"force_corrupted": 1.0, "force_normal": 0.0}  # those of a flat energy
FAINT = 4e-5  # mean squared change of a corruption that still counts in full

Corrupt = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]


class LossResult(NamedTuple):
    """A scalar loss with a graph, and what a reader should watch beside it."""

    loss: Tensor
    health: dict[str, float]


# --- contrastive divergence ---------------------------------------------------------


def contrastive_divergence(
    energy: Energy,
    x: Tensor,
    negatives: Tensor,
    *,
    penalty: float = 0.1,
    data_noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> LossResult:
    r"""Push the energy of data down and the energy of the model's samples up.

    .. math::
        L = \overline{E(x^+)} - \overline{E(x^-)}
            + \alpha\,(\overline{E(x^+)^2} + \overline{E(x^-)^2})

    The first two terms have the gradient of the negative log likelihood when the
    negatives x- are samples of the model. Mind the sign: many codes let the network
    output -E, and there the two means change places. The penalty keeps the energies
    near zero, which the first two terms, blind to a constant, do not.

    Args:
        energy: Any callable (B, *shape) -> (B,).
        x: Data, (B, *shape).
        negatives: Samples of the model, (M, *shape). No gradient flows into them.
        penalty: The factor alpha, at least 0.
        data_noise: Standard deviation of the Gaussian noise added to the data, in
            units of x; it keeps the energy smooth between the 256 grey levels.
        generator: Source of the data noise; required when `data_noise` > 0.

    Returns:
        The loss, and `energy_data`, `energy_chain`, `gap` (= data - chain; one sign
        for long may mean that the sampler lags the model) and `penalty`.

    Raises:
        TypeError: x or negatives is not a floating-point tensor.
        ValueError: Wrong shapes, a negative factor, or noise without a generator.

    Source: Hinton (2002), *Training products of experts*; energy penalty and data
    noise after Du and Mordatch (2019), *Implicit generation and modeling*.
    """
    _check_batch("x", x)
    _check_batch("negatives", negatives, like=x)
    _check_at_least_zero("penalty", penalty)
    _check_at_least_zero("data_noise", data_noise)
    if data_noise > 0:
        x = x + data_noise * _normal_like(x, generator)
    e_data = _evaluate(energy, x)  # (B,)
    e_chain = _evaluate(energy, negatives.detach())  # (M,)
    contrast = e_data.mean() - e_chain.mean()
    squares = penalty * (e_data.square().mean() + e_chain.square().mean())
    health = {
        "energy_data": e_data.mean().item(),
        "energy_chain": e_chain.mean().item(),
        "gap": contrast.item(),
        "penalty": squares.item(),
    }
    return LossResult(contrast + squares, health)


# --- denoising score matching -------------------------------------------------------


def denoising_score_matching(
    energy: Energy,
    x: Tensor,
    *,
    sigmas: Sequence[float],
    generator: torch.Generator,
) -> LossResult:
    r"""Teach the energy's slope to point back from a noisy image to the clean one.

    With :math:`\tilde x = x + \sigma\epsilon` the model's score is
    :math:`-\partial E/\partial x` and the target is :math:`-\epsilon/\sigma`.
    Weighted by :math:`\sigma^2`, so that all noise levels count alike:

    .. math::
        L = \overline{\;\lVert \sigma\, \nabla E(\tilde x) - \epsilon \rVert^2\;}

    The minimum is reached where E is the energy of the *noisy* data, at every level
    at once as well as one scalar energy can. No sampling is needed.

    Args:
        energy: Any differentiable callable (B, *shape) -> (B,). It is differentiated
            twice, so piecewise linear activations (ReLU) learn little: use SiLU.
        x: Data, (B, *shape).
        sigmas: Noise levels in units of x, each > 0; one is drawn for each sample.
        generator: Source of the levels and of the noise.

    Returns:
        The loss, and `residual` (the loss for one dimension: 1 = the slope knows
        nothing about the noise, 0 = it knows all) and `energy_noisy`.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: Empty or non-positive sigmas, or an energy without a gradient.

    Source: Vincent (2011), *A connection between score matching and denoising
    autoencoders*; several levels after Song and Ermon (2019) and Li et al. (2019).
    """
    _check_batch("x", x)
    levels = torch.tensor(_check_sigmas(sigmas), dtype=x.dtype)  # (K,)
    pick = torch.randint(
        len(levels), (len(x),), generator=generator, device=_device_of(generator)
    )
    sigma = levels[pick.cpu()].to(x.device).view(-1, *[1] * (x.ndim - 1))  # (B,1,..)
    noise = _normal_like(x, generator)  # (B, *shape)
    slope, e = _slope(energy, x + sigma * noise)
    loss = _squares(sigma * slope - noise).mean()
    dimensions = x[0].numel()
    health = {
        "residual": loss.item() / dimensions,
        "energy_noisy": e.mean().item(),
    }
    return LossResult(loss, health)


# --- noise contrast -----------------------------------------------------------------


def noise_contrastive(
    energy: Energy,
    x: Tensor,
    negatives: Tensor,
    masks: Tensor | None = None,
    *,
    share: float = 0.25,
    weight: float = 0.5,
    log_noise: Callable[[Tensor], Tensor] | None = None,
) -> LossResult:
    r"""Learn the energy as a classifier between data and corrupted data.

    Without masks the images are classified, with the logit of "x is data" equal to
    :math:`-E(x) - \log q(x)`, where q is the density of the negatives:

    .. math::
        L = (1-w)\,\overline{\mathrm{softplus}(E + \log q)(x^+)}
            + w\,\overline{\mathrm{softplus}(-E - \log q)(x^-)}

    With w = 1/2 the minimum is E = -log p. Without `log_noise` (q unknown, as for
    structured corruptions) it is the log density *ratio*, E = -log p + log q.

    With masks, and an energy that has `logits(x)` -> (B, h, w), every patch is
    classified: patch p is corrupted with probability sigmoid(f_p). The loss of a
    normal patch is then exactly its energy, softplus(f_p) = -log P(p is normal):

    .. math::
        L = (1-w)\,\overline{\mathrm{softplus}(f_p)}\big|_{\mathrm{normal}}
            + w\,\overline{\mathrm{softplus}(-f_p)}\big|_{\mathrm{corrupted}}

    A patch is corrupted where its cell of the mask is covered by at least `share`,
    and normal where it is not covered at all; patches in between are ignored. Each
    of the two means runs over its own patches, so rare corrupted patches count as
    much as the many normal ones (w = 1/2); a batch in which no patch reaches the
    share has no second term, and `corrupted_patches` is 0.

    Args:
        energy: Callable (B, *shape) -> (B,); with masks it needs `.logits`.
        x: Data, (B, *shape); images are (B, C, H, W) in [0, 1].
        negatives: Corrupted data, (M, *shape).
        masks: Where the negatives are corrupted, bool (M, H, W), or None.
        share: Covered share of a mask cell that makes a patch corrupted, in (0, 1].
        weight: The weight w of the negatives, in (0, 1).
        log_noise: log q, callable (B, *shape) -> (B,); only without masks.

    Returns:
        The loss, and `loss_normal`, `loss_corrupted`, with masks also
        `corrupted_patches`, without masks also `energy_data`, `energy_negatives`.

    Raises:
        TypeError: A batch that is not floating point, masks that are not bool, masks
            for an energy without `.logits`.
        ValueError: Wrong shapes, masks without a corrupted pixel, a factor out of
            its range, `log_noise` together with masks.

    Source: Gutmann and Hyvarinen (2010), *Noise-contrastive estimation*; corrupted
    normal images as negatives after Li et al. (2021), *CutPaste*.
    """
    _check_batch("x", x)
    _check_batch("negatives", negatives, like=x)
    if not 0 < weight < 1:
        raise ValueError(f"weight must lie in (0, 1), got {weight}; 0.5 balances")
    if masks is not None:
        if log_noise is not None:
            raise ValueError("log_noise is for whole images: give masks or log_noise")
        return _contrast_patches(energy, x, negatives.detach(), masks, share, weight)
    return _contrast_images(energy, x, negatives.detach(), weight, log_noise)


def _contrast_images(energy, x, negatives, weight, log_noise) -> LossResult:
    e_data = _evaluate(energy, x)  # (B,)
    e_negatives = _evaluate(energy, negatives)  # (M,)
    q_data = 0.0 if log_noise is None else log_noise(x)
    q_negatives = 0.0 if log_noise is None else log_noise(negatives)
    normal = F.softplus(e_data + q_data).mean()
    corrupted = F.softplus(-e_negatives - q_negatives).mean()
    health = {
        "loss_normal": normal.item(),
        "loss_corrupted": corrupted.item(),
        "energy_data": e_data.mean().item(),
        "energy_negatives": e_negatives.mean().item(),
    }
    return LossResult((1 - weight) * normal + weight * corrupted, health)


def _contrast_patches(energy, x, negatives, masks, share, weight) -> LossResult:
    _check_masks(energy, negatives, masks, share)
    logits = energy.logits(torch.cat([x, negatives]))  # (B + M, h, w)
    return _contrast_logits(logits, masks, share, weight)


def _contrast_logits(logits, masks, share, weight) -> LossResult:
    """Logits (B + M, h, w) of clean images, then of corrupted ones with their masks."""
    cover = mask_cover(masks, logits.shape[1:]).to(logits.device)  # (M, h, w)
    clean = cover.new_zeros(len(logits) - len(masks), *cover.shape[1:])
    cover = torch.cat([clean, cover])  # (B + M, h, w)
    is_normal, is_corrupted = cover == 0, cover >= share
    normal = F.softplus(logits[is_normal]).mean()
    count = int(is_corrupted.sum())
    # The sum of an empty selection is 0 with a graph; its mean would be NaN.
    corrupted = F.softplus(-logits[is_corrupted]).sum() / max(count, 1)
    health = {
        "loss_normal": normal.item(),
        "loss_corrupted": corrupted.item(),
        "corrupted_patches": float(count),
    }
    return LossResult((1 - weight) * normal + weight * corrupted, health)


def mask_cover(masks: Tensor, grid: Sequence[int]) -> Tensor:
    """Share of every grid cell that the mask covers.

    Args:
        masks: bool (M, H, W).
        grid: The number of cells (h, w).

    Returns:
        float32 (M, h, w) in [0, 1].
    """
    return F.adaptive_avg_pool2d(masks.float()[:, None], tuple(grid))[:, 0]


def refine_negatives(
    energy: Energy,
    negatives: Tensor,
    masks: Tensor,
    *,
    steps: int,
    snr: float = 0.5,
    noise: float = 0.005,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Make negatives harder by a few Langevin steps inside their masks.

    The corrupted pixels walk down the energy while all other pixels stay as they
    are, so what is left of the corruption is what the model still believes in.

    Args:
        energy: Callable (B, C, H, W) -> (B,).
        negatives: (M, C, H, W) in [0, 1].
        masks: bool (M, H, W), True where pixels may move.
        steps: Langevin steps, at least 1.
        snr: Drift-to-noise ratio of the chain at its start, over all pixels.
        noise: Standard deviation of the noise of one step, in units of x.
        generator: Source of the noise.

    Returns:
        (M, C, H, W) without a graph.
    """
    inside = masks[:, None].to(negatives.device)  # (M, 1, H, W)

    def energy_inside(z: Tensor) -> Tensor:
        return energy(torch.where(inside, z, negatives))

    chain = langevin(
        energy_inside,
        negatives,
        steps=steps,
        snr=snr,
        noise=noise,
        bounds=(0.0, 1.0),
        generator=generator,
    )
    return torch.where(inside, chain.x, negatives)


# --- restoration --------------------------------------------------------------------


def restoration(
    energy: Energy, x: Tensor, corrupted: Tensor, *, stiffness: float = 10.0
) -> LossResult:
    r"""Teach the energy's slope to undo a corruption: a spring back to the clean image.

    For y, a corrupted copy of the clean image x, the target is
    :math:`\nabla E(y) = \kappa\,(y - x)`, and no force on the clean image itself:

    .. math::
        L = \overline{\;\frac{\lVert\nabla E(y) - \kappa (y - x)\rVert^2}
                             {\lVert\kappa (y - x)\rVert^2}\;}
            + \frac{\overline{\lVert\nabla E(x)\rVert^2}}
                   {\overline{\lVert\kappa (y - x)\rVert^2}}

    This is denoising score matching with a structured corruption in place of Gaussian
    noise: at the minimum one step of size 1/kappa down the energy leads to a mean of
    the clean images that y may come from, in which the nearer ones weigh more (the
    first term is relative, so that a faint defect counts as much as a strong one), and
    |dE/dy| *is* the map of the defect.

    Args:
        energy: Callable (B, *shape) -> (B,), twice differentiable.
        x: Clean data, (B, *shape).
        corrupted: The corrupted copy of each x, (B, *shape).
        stiffness: The spring constant kappa > 0, in energy per squared pixel value.

    Returns:
        The loss, and its two terms `force_corrupted` and `force_normal` (1 and 0 for an
        energy without any slope).

    Raises:
        TypeError, ValueError: As `denoising_score_matching`; or shapes that differ.

    Source: Vincent (2011) for Gaussian noise; corrupted and clean pairs as in Zavrtanik
    et al. (2021), *DRAEM*, whose first network restores and whose second draws the map.
    """
    _check_batch("x", x)
    _check_batch("corrupted", corrupted, like=x)
    if len(corrupted) != len(x):
        raise ValueError(
            f"each of the {len(x)} clean images needs its corrupted copy, got "
            f"{len(corrupted)}"
        )
    if not 0 < stiffness < float("inf"):
        raise ValueError(f"stiffness must be positive and finite, got {stiffness}")
    slope, _ = _slope(energy, torch.cat([x, corrupted]))  # (2B, *shape)
    return _compare_forces(slope, x, corrupted, stiffness)


def _compare_forces(slope, x, corrupted, stiffness) -> LossResult:
    """Slopes (C + B, *shape) at C clean images, then at the B corrupted ones."""
    pull = stiffness * (corrupted - x).detach()  # (B, *shape)
    # Below the floor a corruption is too faint to be worth a relative error.
    floor = stiffness**2 * FAINT * x[0].numel()
    size = _squares(pull).clamp_min(floor)  # (B,)
    rest, moved = slope[: -len(x)], slope[-len(x) :]
    corrupted_term = (_squares(moved - pull) / size).mean()
    normal_term = _squares(rest).mean() / size.mean()
    health = {
        "force_corrupted": corrupted_term.item(),
        "force_normal": normal_term.item(),
    }
    return LossResult(corrupted_term + normal_term, health)


def _slope(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """dE/dx (B, *shape) with a graph for a loss made of it, and E (B,)."""
    x = x.detach().requires_grad_()
    e = _evaluate(energy, x)  # (B,)
    if not e.requires_grad:
        raise ValueError(
            "the energy's output does not depend on its input by autograd; this loss "
            "differentiates it, so remove no_grad() or detach() from it"
        )
    return _gradient(e.sum(), x), e


def _gradient(total: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(total, x, create_graph=True)[0]


def _squares(x: Tensor) -> Tensor:
    """Squared norm of each item: (B, *shape) -> (B,)."""
    return x.square().flatten(1).sum(1)


# --- objectives: a loss with what it needs, for the training loop -------------------


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
        _check_sigmas(self.sigmas)

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
        _check_at_least_zero("restoration", self.restoration)
        _check_at_least_zero("warmup", self.warmup)
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
            slope, _ = _slope(energy, x)
        else:  # both losses from one pass: a third less time
            logits = energy.logits(x)  # (C + B, h, w)
            slope = _gradient(F.softplus(logits).sum(), x)
            contrast = _contrast_logits(logits, masks, **options)
        if self.stiffness is None and self.calls <= self.warmup + MEASURED:
            self.slopes += _squares(slope[-len(batch) :]).mean().item()
            self.pulls += _squares(negatives - batch).mean().item()
            return LossResult(contrast.loss, contrast.health | UNTAUGHT)
        stiffness = self.stiffness or math.sqrt(max(self.slopes, 1e-6) / self.pulls)
        force = _compare_forces(slope, batch, negatives, stiffness)
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


# --- checks -------------------------------------------------------------------------


def _evaluate(energy: Energy, x: Tensor) -> Tensor:
    return check_energy(energy(x), len(x))  # (B,)


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    device = _device_of(generator)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device)
    return noise.to(x.device)


def _device_of(generator: torch.Generator | None) -> torch.device:
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"noise needs an explicit generator, got {generator!r}: pass "
            "generator=torch.Generator().manual_seed(0)"
        )
    return generator.device


def _check_batch(name: str, x: Tensor, like: Tensor | None = None) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {got}")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(
            f"{name} must be a batch (B, *shape) with B >= 1, got {tuple(x.shape)}"
        )
    if like is not None and x.shape[1:] != like.shape[1:]:
        raise ValueError(
            f"{name} must have the shape of the data, (B, *{tuple(like.shape[1:])}), "
            f"got {tuple(x.shape)}"
        )


def _check_at_least_zero(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be finite and at least 0, got {value}")


def _check_sigmas(sigmas: Sequence[float]) -> list[float]:
    levels = [float(sigma) for sigma in sigmas]
    if not levels or not all(0 < sigma < float("inf") for sigma in levels):
        raise ValueError(
            f"sigmas must be one or more positive noise levels, got {levels}; "
            "for images in [0, 1] try (0.05, 0.1, 0.2)"
        )
    return levels


def _check_masks(energy, negatives: Tensor, masks: Tensor, share: float) -> None:
    if not hasattr(energy, "logits"):
        raise TypeError(
            f"masks need an energy with .logits, such as PatchEnergy, not "
            f"{type(energy).__name__}; without masks whole images are classified"
        )
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
        got = masks.dtype if isinstance(masks, Tensor) else type(masks).__name__
        raise TypeError(f"masks must be a bool tensor (M, H, W), got {got}")
    expected = (len(negatives), *negatives.shape[-2:])
    if masks.shape != expected:
        raise ValueError(f"masks must be {expected}, got {tuple(masks.shape)}")
    if not masks.any():
        raise ValueError("no mask has a corrupted pixel: check the corruption")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
