r"""Losses that learn an energy from normal images (chapters 4, 5 and 9).

Every loss takes an energy and a batch and returns a `LossResult`. The sign convention
is the same everywhere: p(x) = exp(-E(x)) / Z, so a *low* energy means normal.

- `contrastive_divergence` lowers E on data and raises it on samples of the model.
- `noise_contrastive` makes E a classifier between data and corrupted data.
- `denoising_score_matching` fits dE/dx to noise that was added.
- `restoration` fits dE/dx to corruptions that were made.

`image_cross_entropy`, `patch_cross_entropy` and `restoration_error` are the formulas of
two of them for energies, logits and gradients that are computed elsewhere, so that one
pass through the network can serve two losses (`ebmlib.objectives`). They return the
health figures as tensors, which `read_figures` copies to the host at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmlib.energy import Energy, check_energy, value_and_gradient
from ebmlib.langevin import langevin
from ebmlib.random import check_generator, randn

MIN_MEAN_SQUARE = 4e-5  # a corruption with a smaller mean square change counts less

Figures = dict[str, Tensor]  # health figures without dimensions, on any device


class LossResult(NamedTuple):
    """A scalar loss with a graph, and figures that show the health of the training."""

    loss: Tensor
    health: dict[str, float]


class PatchClassifier(Protocol):
    """A sum of patch energies softplus(f_p), such as `ebmlib.networks.PatchEnergy`."""

    def logits(self, x: Tensor) -> Tensor:
        """f_p, positive where a patch looks corrupted: (B, C, H, W) -> (B, h, w)."""


def contrastive_divergence(
    energy: Energy,
    x: Tensor,
    negatives: Tensor,
    *,
    penalty: float = 0.1,
    data_noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> LossResult:
    r"""Lower the energy of data and raise that of the model's samples.

    .. math::
        L = \overline{E(x^+)} - \overline{E(x^-)}
            + \alpha\,(\overline{E(x^+)^2} + \overline{E(x^-)^2})

    The first two terms have the gradient of the negative log likelihood when the
    negatives x- are samples of the model. In codes whose network outputs -E the two
    means change places. The first two terms do not depend on a constant added to E; the
    penalty keeps the energies near zero.

    Args:
        energy: Any callable (B, *shape) -> (B,).
        x: Data, (B, *shape).
        negatives: Samples of the model, (M, *shape). No gradient flows into them.
        penalty: The factor alpha, at least 0.
        data_noise: Standard deviation of the Gaussian noise added to the data, in
            units of x; it keeps the energy smooth between the 256 gray levels.
        generator: Source of the data noise; required when `data_noise` > 0.

    Returns:
        The loss, and `energy_data`, `energy_chain`, `gap` (= data - chain; if its sign
        stays the same for long, the sampler may lag the model) and `penalty`.

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
        x = x + data_noise * randn(x.shape, generator, like=x)
    e_data = check_energy(energy(x), len(x))  # (B,)
    e_chain = check_energy(energy(negatives.detach()), len(negatives))  # (M,)
    contrast = e_data.mean() - e_chain.mean()
    squares = penalty * (e_data.square().mean() + e_chain.square().mean())
    figures = {
        "energy_data": e_data.mean(),
        "energy_chain": e_chain.mean(),
        "gap": contrast,
        "penalty": squares,
    }
    return LossResult(contrast + squares, read_figures(figures))


def denoising_score_matching(
    energy: Energy,
    x: Tensor,
    *,
    sigmas: Sequence[float],
    generator: torch.Generator,
) -> LossResult:
    r"""Train the energy's gradient to point from a clean image to a noisy one.

    With :math:`\tilde x = x + \sigma\epsilon` the model's score is
    :math:`-\partial E/\partial x` and the target is :math:`-\epsilon/\sigma`.
    Weighted by :math:`\sigma^2`, so that all noise levels have equal weight:

    .. math::
        L = \overline{\;\lVert \sigma\, \nabla E(\tilde x) - \epsilon \rVert^2\;}

    The minimum is reached where E is the energy of the *noisy* data, at all levels at
    once as well as one scalar energy can. No sampling is needed.

    Args:
        energy: Any differentiable callable (B, *shape) -> (B,). It is differentiated
            twice, so piecewise linear activations (ReLU) learn little: use SiLU.
        x: Data, (B, *shape).
        sigmas: Noise levels in units of x, each > 0; one is drawn for each sample.
        generator: Source of the levels and of the noise.

    Returns:
        The loss, and `residual` (the loss for one dimension: 1 for a gradient that is
        independent of the noise, 0 for one that predicts it) and `energy_noisy`.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: Empty or non-positive sigmas, a missing generator, or an energy
            without a gradient.

    Source: Vincent (2011), *A connection between score matching and denoising
    autoencoders*; several levels after Song and Ermon (2019) and Li et al. (2019).
    """
    _check_batch("x", x)
    sigmas = check_noise_levels(sigmas)
    device = check_generator(generator).device
    levels = torch.tensor(sigmas, dtype=x.dtype, device=device)  # (K,)
    pick = torch.randint(len(levels), (len(x),), generator=generator, device=device)
    sigma = levels[pick].to(x.device).view(-1, *[1] * (x.ndim - 1))  # (B, 1, ..)
    noise = randn(x.shape, generator, like=x)  # (B, *shape)
    e, gradient = value_and_gradient(energy, x + sigma * noise, create_graph=True)
    loss = _squared_norms(sigma * gradient - noise).mean()
    figures = {"residual": loss / x[0].numel(), "energy_noisy": e.mean()}
    return LossResult(loss, read_figures(figures))


def noise_contrastive(
    energy: Energy | PatchClassifier,
    x: Tensor,
    negatives: Tensor,
    masks: Tensor | None = None,
    *,
    min_cover: float = 0.25,
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

    A patch is corrupted if the mask covers at least the fraction `min_cover` of its
    cell, and normal if the mask does not touch it; patches in between are ignored. Each
    of the two means runs over its own patches, so rare corrupted patches count as
    much as the many normal ones (w = 1/2). If no patch reaches `min_cover`, there is no
    second term and `corrupted_patches` is 0.

    Args:
        energy: Callable (B, *shape) -> (B,); with masks it needs `.logits`.
        x: Data, (B, *shape); images are (B, C, H, W) in [0, 1].
        negatives: Corrupted data, (M, *shape). No gradient flows into them.
        masks: Where the negatives are corrupted, bool (M, H, W), or None.
        min_cover: Covered fraction of a cell that makes a patch corrupted, in (0, 1].
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
    negatives = negatives.detach()
    if masks is None:
        energy = cast(Energy, energy)
        e_data = check_energy(energy(x), len(x))  # (B,)
        e_negatives = check_energy(energy(negatives), len(negatives))  # (M,)
        q_data = 0.0 if log_noise is None else log_noise(x)
        q_negatives = 0.0 if log_noise is None else log_noise(negatives)
        loss, figures = image_cross_entropy(
            e_data + q_data, e_negatives + q_negatives, weight=weight
        )
        figures |= {
            "energy_data": e_data.mean(),
            "energy_negatives": e_negatives.mean(),
        }
        return LossResult(loss, read_figures(figures))
    if log_noise is not None:
        raise ValueError("log_noise is for whole images: give masks or log_noise")
    _check_masks(energy, negatives, masks, min_cover)
    logits = cast(PatchClassifier, energy).logits(torch.cat([x, negatives]))
    loss, figures = patch_cross_entropy(
        logits, masks, min_cover=min_cover, weight=weight
    )
    health = read_figures(figures | {"masked": masks.any()})
    if not health.pop("masked"):
        raise ValueError("no mask has a corrupted pixel: check the corruption")
    return LossResult(loss, health)


def image_cross_entropy(
    data: Tensor, negatives: Tensor, *, weight: float = 0.5
) -> tuple[Tensor, Figures]:
    r"""The loss of `noise_contrastive` without masks, from E + log q.

    .. math::
        L = (1-w)\,\overline{\mathrm{softplus}(h^+)}
            + w\,\overline{\mathrm{softplus}(-h^-)}

    Args:
        data: h = E + log q of data, (B,).
        negatives: h of the negatives, (M,).
        weight: The weight w of the negatives, in (0, 1).

    Returns:
        The loss, and `loss_normal` and `loss_corrupted`.
    """
    normal, corrupted = F.softplus(data).mean(), F.softplus(-negatives).mean()
    figures = {"loss_normal": normal, "loss_corrupted": corrupted}
    return (1 - weight) * normal + weight * corrupted, figures


def patch_cross_entropy(
    logits: Tensor, masks: Tensor, *, min_cover: float = 0.25, weight: float = 0.5
) -> tuple[Tensor, Figures]:
    """The loss of `noise_contrastive` with masks, from logits.

    Args:
        logits: f_p of C clean images, then of M corrupted ones, (C + M, h, w).
        masks: Where the corrupted ones are corrupted, bool (M, H, W).
        min_cover: As in `noise_contrastive`.
        weight: As in `noise_contrastive`.

    Returns:
        The loss, and `loss_normal`, `loss_corrupted` and `corrupted_patches`.
    """
    cover = mask_cover(masks.to(logits.device), logits.shape[1:])  # (M, h, w)
    clean = cover.new_zeros(len(logits) - len(masks), *cover.shape[1:])
    cover = torch.cat([clean, cover])  # (C + M, h, w)
    is_normal, is_corrupted = cover == 0, cover >= min_cover
    losses = F.softplus(torch.where(is_corrupted, -logits, logits))
    # Masked sums, because indexing with a mask makes the host wait for the device.
    normal = torch.where(is_normal, losses, 0.0).sum() / is_normal.sum()
    count = is_corrupted.sum()
    corrupted = torch.where(is_corrupted, losses, 0.0).sum() / count.clamp_min(1)
    figures = {
        "loss_normal": normal,
        "loss_corrupted": corrupted,
        "corrupted_patches": count,
    }
    return (1 - weight) * normal + weight * corrupted, figures


def mask_cover(masks: Tensor, grid: Sequence[int]) -> Tensor:
    """Fraction of every grid cell that the mask covers.

    Args:
        masks: bool (M, H, W).
        grid: The number of cells (h, w).

    Returns:
        float32 (M, h, w) in [0, 1].
    """
    h, w = grid
    return F.adaptive_avg_pool2d(masks.float()[:, None], (h, w))[:, 0]


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
    """Negatives of lower energy, by a few Langevin steps inside their masks.

    Only the masked pixels change. What the model already finds anomalous is removed, so
    the refined negatives are harder to tell from data.

    Args:
        energy: Callable (B, C, H, W) -> (B,).
        negatives: (M, C, H, W) in [0, 1].
        masks: bool (M, H, W), True where pixels may change.
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
    r"""Train the energy's gradient to point from a clean image to its corrupted copy.

    For y, a corrupted copy of the clean image x, the target is that of a spring with
    its rest position at x, :math:`\nabla E(y) = \kappa\,(y - x)`, and no force on the
    clean image itself:

    .. math::
        L = \overline{\;\frac{\lVert\nabla E(y) - \kappa (y - x)\rVert^2}
                             {\lVert\kappa (y - x)\rVert^2}\;}
            + \frac{\overline{\lVert\nabla E(x)\rVert^2}}
                   {\overline{\lVert\kappa (y - x)\rVert^2}}

    This is denoising score matching with a structured corruption in place of Gaussian
    noise. At the minimum one step of size 1/kappa down the energy leads to a mean of
    the clean images that y may come from, in which the nearer ones have more weight
    (the first term is relative, so that a faint corruption counts as much as a strong
    one), and |dE/dy| *is* the map of the corruption.

    Args:
        energy: Callable (B, *shape) -> (B,), twice differentiable.
        x: Clean data, (B, *shape).
        corrupted: The corrupted copy of each x, (B, *shape).
        stiffness: The spring constant kappa > 0, in energy per squared pixel value.

    Returns:
        The loss, and its two terms `force_corrupted` and `force_normal` (1 and 0 for an
        energy whose gradient is 0).

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
    both = torch.cat([x, corrupted])
    _, gradient = value_and_gradient(energy, both, create_graph=True)  # (2B, *shape)
    loss, figures = restoration_error(gradient, x, corrupted, stiffness)
    return LossResult(loss, read_figures(figures))


def restoration_error(
    gradient: Tensor, x: Tensor, corrupted: Tensor, stiffness: float
) -> tuple[Tensor, Figures]:
    """The loss of `restoration`, from gradients.

    Args:
        gradient: dE/dx of C clean images, then of the B corrupted ones, with a graph:
            (C + B, *shape).
        x: The clean images that the corrupted ones were made of, (B, *shape).
        corrupted: (B, *shape).
        stiffness: The spring constant kappa.

    Returns:
        The loss, and its two terms `force_corrupted` and `force_normal`.
    """
    pull = stiffness * (corrupted - x).detach()  # (B, *shape)
    # A relative error needs a lower bound on what it is relative to.
    least = stiffness**2 * MIN_MEAN_SQUARE * x[0].numel()
    size = _squared_norms(pull).clamp_min(least)  # (B,)
    at_clean, at_corrupted = gradient[: -len(x)], gradient[-len(x) :]
    corrupted_term = (_squared_norms(at_corrupted - pull) / size).mean()
    normal_term = _squared_norms(at_clean).mean() / size.mean()
    figures = {"force_corrupted": corrupted_term, "force_normal": normal_term}
    return corrupted_term + normal_term, figures


def read_figures(figures: Figures) -> dict[str, float]:
    """Health figures as plain floats, by one copy from their device to the host."""
    values = [value.detach() for value in figures.values()]
    wide = torch.float32
    for value in values:
        wide = torch.promote_types(wide, value.dtype)
    together = torch.stack([value.to(values[0].device, wide) for value in values])
    return dict(zip(figures, together.tolist(), strict=True))


def check_noise_levels(sigmas: Sequence[float]) -> list[float]:
    """The noise levels as floats.

    Raises:
        ValueError: There is none, or one that is not positive and finite.
    """
    levels = [float(sigma) for sigma in sigmas]
    if not levels or not all(0 < sigma < float("inf") for sigma in levels):
        raise ValueError(
            f"sigmas must be one or more positive noise levels, got {levels}; "
            "for images in [0, 1] try (0.05, 0.1, 0.2)"
        )
    return levels


def _squared_norms(x: Tensor) -> Tensor:
    """Squared norm of each item: (B, *shape) -> (B,)."""
    return x.square().flatten(1).sum(1)


def _check_batch(name: str, x: Any, like: Tensor | None = None) -> None:
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


def _check_masks(
    energy: object, negatives: Tensor, masks: Any, min_cover: float
) -> None:
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
    if not 0 < min_cover <= 1:
        raise ValueError(f"min_cover must lie in (0, 1], got {min_cover}")
