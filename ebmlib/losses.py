"""Ways to learn an energy from normal images alone (chapters 4 and 5).

Every loss takes an energy and a batch and returns a `LossResult`: the loss to
differentiate, and its health figures as plain floats. The sign convention never
changes: p(x) = exp(-E(x)) / Z, so that a *low* energy means normal.

The plain functions are the mathematics. The three classes at the end bind a loss
to what it needs (chains, noise levels, corruptions) so that `ebmlib.training.train`
can call each of them as `objective(energy, batch, generator)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmlib.energy import Energy, check_energy
from ebmlib.langevin import langevin

FAINT = 4e-5  # mean squared change of a corruption that still counts in full


class LossResult(NamedTuple):
    """A scalar loss with a graph, and what a reader should watch beside it."""

    loss: Tensor
    health: dict[str, float]


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
    check_at_least_zero("penalty", penalty)
    check_at_least_zero("data_noise", data_noise)
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
    levels = torch.tensor(check_sigmas(sigmas), dtype=x.dtype)  # (K,)
    pick = torch.randint(
        len(levels), (len(x),), generator=generator, device=_device_of(generator)
    )
    sigma = levels[pick.cpu()].to(x.device).view(-1, *[1] * (x.ndim - 1))  # (B,1,..)
    noise = _normal_like(x, generator)  # (B, *shape)
    slope, e = graph_gradient(energy, x + sigma * noise)
    loss = squared_norms(sigma * slope - noise).mean()
    dimensions = x[0].numel()
    health = {
        "residual": loss.item() / dimensions,
        "energy_noisy": e.mean().item(),
    }
    return LossResult(loss, health)


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
    return contrast_logits(logits, masks, share, weight)


def contrast_logits(logits, masks, share, weight) -> LossResult:
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
    slope, _ = graph_gradient(energy, torch.cat([x, corrupted]))  # (2B, *shape)
    return compare_forces(slope, x, corrupted, stiffness)


def compare_forces(slope, x, corrupted, stiffness) -> LossResult:
    """Slopes (C + B, *shape) at C clean images, then at the B corrupted ones."""
    pull = stiffness * (corrupted - x).detach()  # (B, *shape)
    # Below the floor a corruption is too faint to be worth a relative error.
    floor = stiffness**2 * FAINT * x[0].numel()
    size = squared_norms(pull).clamp_min(floor)  # (B,)
    rest, moved = slope[: -len(x)], slope[-len(x) :]
    corrupted_term = (squared_norms(moved - pull) / size).mean()
    normal_term = squared_norms(rest).mean() / size.mean()
    health = {
        "force_corrupted": corrupted_term.item(),
        "force_normal": normal_term.item(),
    }
    return LossResult(corrupted_term + normal_term, health)


def graph_gradient(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """dE/dx (B, *shape) with a graph for a loss made of it, and E (B,)."""
    x = x.detach().requires_grad_()
    e = _evaluate(energy, x)  # (B,)
    if not e.requires_grad:
        raise ValueError(
            "the energy's output does not depend on its input by autograd; this loss "
            "differentiates it, so remove no_grad() or detach() from it"
        )
    return gradient_of_sum(e.sum(), x), e


def gradient_of_sum(total: Tensor, x: Tensor) -> Tensor:
    """The gradient of a scalar, with a graph, for losses made of gradients."""
    return torch.autograd.grad(total, x, create_graph=True)[0]


def squared_norms(x: Tensor) -> Tensor:
    """Squared norm of each item: (B, *shape) -> (B,)."""
    return x.square().flatten(1).sum(1)


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


def check_at_least_zero(name: str, value: float) -> None:
    """Refuse what is negative, infinite or NaN."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be finite and at least 0, got {value}")


def check_sigmas(sigmas: Sequence[float]) -> list[float]:
    """The noise levels as floats; refuse none, or levels that are not positive."""
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
