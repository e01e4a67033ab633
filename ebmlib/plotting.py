"""The figures of the book, in one style (used from chapter 1 on).

Every function returns a Matplotlib figure and shows nothing itself: a notebook displays
the figure that ends a cell, a script calls `figure.savefig(...)`. Arrays may be NumPy
arrays or torch tensors. Colors are color-blind safe (Okabe and Ito, 2008), and no
distinction rests on color alone. Figures carry their own light background, so they
read the same on a light and on a dark page.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from ebmlib import metrics

Array = NDArray | torch.Tensor

INK, PAPER = "#222222", "#f3f3ee"
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#AA4499", "#E69F00", "#56B4E9"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK)
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
NORMAL, ANOMALOUS = BLUE, VERMILION
HEAT = "inferno"  # rises evenly in lightness, so it reads in gray too

# Health figures that belong together: (title, names, log axis).
VITALS = (
    ("loss", ("loss",), False),
    (
        "energy",
        ("energy_data", "energy_chain", "energy_negatives", "energy_noisy"),
        False,
    ),
    ("gap E(data) - E(chain)", ("gap",), False),
    ("drift-to-noise ratio", ("drift_to_noise", "chain_drift_to_noise"), True),
    (
        "shares of the chain",
        ("clip_fraction", "saturated", "chain_clip_fraction", "chain_saturated"),
        False,
    ),
    ("gradient norm", ("gradient_norm",), True),
)


def use_style() -> None:
    """Set Matplotlib's defaults to the style of the book, once per notebook."""
    mpl.rcParams.update(
        {
            "figure.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 11,
            "legend.fontsize": 10,
            "legend.frameon": True,
            "legend.facecolor": PAPER,
            "legend.edgecolor": PAPER,
            "legend.framealpha": 0.85,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#d4d4cc",
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
            "lines.linewidth": 2.0,
            "image.cmap": HEAT,
            "image.interpolation": "nearest",
            "axes.prop_cycle": cycler(color=CYCLE) + cycler(linestyle=DASHES),
        }
    )


def image_grid(
    images: Array, titles: Sequence[str] | None = None, columns: int | None = None
) -> Figure:
    """Images side by side, on the one gray scale [0, 1].

    images: (N, C, H, W) with C = 1 or 3, or (N, H, W); values in [0, 1].
    titles: one per image. columns: per row, at most 8 by default.
    Raises ValueError for other shapes or values (no image is rescaled silently).
    """
    pictures = _pictures(images)
    _check_titles(titles, len(pictures))
    columns = _columns(min(len(pictures), 8) if columns is None else columns)
    rows = -(-len(pictures) // columns)
    figure, axes = new_figure(
        rows, columns, size=(1.5 * columns, (1.8 if titles else 1.5) * rows)
    )
    for i, ax in enumerate(axes.flat):
        ax.axis("off")
        if i < len(pictures):
            ax.imshow(pictures[i], cmap="gray", vmin=0, vmax=1)
            if titles:
                ax.set_title(titles[i], fontsize=10)
    return figure


def map_overlay(
    images: Array,
    maps: Array,
    masks: Array | None = None,
    *,
    vmin: float | None = None,
    vmax: float | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 6,
) -> Figure:
    """Each image above its anomaly map, all maps on *one* color scale.

    images: as in `image_grid`. maps: (N, H, W) finite, higher = more anomalous.
    masks: (N, H, W) bool, drawn as outlines. vmin, vmax: ends of the scale, by default
    the extremes of `maps`; pass those of the whole test set when showing a part of it.
    A scale per image would light up the normal images too, so there is none.
    Raises ValueError for shapes that differ or an empty scale.
    """
    pictures, heat = _pictures(images), _maps(maps)
    if heat.shape != pictures.shape[:3]:
        raise ValueError(
            f"need one map per image and pixel: images are {pictures.shape[:3]} "
            f"(N, H, W), maps {heat.shape}."
        )
    outlines = _outlines(masks, heat.shape)
    _check_titles(titles, len(pictures))
    vmin = float(heat.min()) if vmin is None else vmin
    vmax = float(heat.max()) if vmax is None else vmax
    if not vmin < vmax:
        raise ValueError(f"need vmin < vmax, got {vmin} and {vmax}: a constant map?")
    columns = min(_columns(columns), len(pictures))
    blocks = -(-len(pictures) // columns)
    figure, axes = new_figure(
        2 * blocks, columns, size=(1.5 * columns + 0.9, 3.2 * blocks)
    )
    for ax in axes.flat:
        ax.axis("off")
    for i, picture in enumerate(pictures):
        top = axes[2 * (i // columns), i % columns]
        below = axes[2 * (i // columns) + 1, i % columns]
        top.imshow(picture, cmap="gray", vmin=0, vmax=1)
        shown = below.imshow(heat[i], cmap=HEAT, vmin=vmin, vmax=vmax)
        if titles:
            top.set_title(titles[i], fontsize=10)
        if outlines is not None:
            _outline(top, outlines[i])
            _outline(below, outlines[i])
    beyond = _beyond(heat, vmin, vmax)
    bar = figure.colorbar(shown, ax=axes, extend=beyond, shrink=0.9, pad=0.02)
    bar.set_label("anomaly map")
    bar.outline.set_visible(False)
    return figure


def score_histogram(
    scores: Array,
    labels: Array,
    threshold: float | None = None,
    *,
    bins: int = 30,
    xlabel: str = "anomaly score",
) -> Figure:
    """How the scores of normal and of anomalous images are distributed.

    scores: (N,) finite. labels: (N,) bool or 0/1, one class alone is allowed.
    threshold: drawn as a line, with the share of each class above it, which is what
    `ebmlib.detector` flags: score > threshold.
    """
    scores, labels = metrics.to_numpy(scores), metrics.to_numpy(labels).astype(bool)
    if scores.ndim != 1 or scores.shape != labels.shape or not len(scores):
        raise ValueError(
            "scores and labels must be (N,) with the same N >= 1, got "
            f"{scores.shape} and {labels.shape}."
        )
    _check_finite(scores, "scores")
    edges = np.histogram_bin_edges(scores, bins)
    figure, axes = new_figure(1, 1, size=(6.0, 3.4))
    ax = axes[0, 0]
    for name, chosen, color, hatch in (
        ("normal", ~labels, NORMAL, ""),
        ("anomalous", labels, ANOMALOUS, "///"),
    ):
        if chosen.any():
            name = f"{name} ({chosen.sum()})"
            if threshold is not None:
                name += f", {(scores[chosen] > threshold).mean():.0%} flagged"
            style = {"color": color, "alpha": 0.55, "hatch": hatch, "label": name}
            ax.hist(scores[chosen], edges, edgecolor=PAPER, **style)
            ax.hist(scores[chosen], edges, histtype="step", color=color, ls="-")
    if threshold is not None:
        ax.axvline(threshold, color=INK, ls="--", label=f"threshold {threshold:.3g}")
    ax.set(xlabel=xlabel, ylabel="images")
    _legend_above(ax)
    return figure


def roc(scores_by_name: Mapping[str, Array], labels: Array) -> Figure:
    """ROC curves with their AUROC; a diagonal marks chance.

    scores_by_name: name -> (N,) scores. labels: (N,) bool or 0/1.
    Errors as in `metrics.image_auroc`.
    """
    figure, ax = _curves(scores_by_name)
    for (name, scores), style in _styled(scores_by_name):
        fpr, tpr, _ = metrics.roc_curve(scores, labels)
        auroc = metrics.image_auroc(scores, labels)
        ax.plot(fpr, tpr, label=f"{name}: {auroc:.3f}", **style)
    chance: dict[str, Any] = {
        "color": "#777777",
        "ls": (0, (1, 5)),
        "lw": 1.2,
    }  # no curve's dashes
    ax.plot([0, 1], [0, 1], label="chance: 0.500", **chance)
    ax.set(xlabel="false positive rate", ylabel="true positive rate")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    _legend_beside(ax, "AUROC")
    return figure


def pro(curves: Mapping[str, tuple[NDArray, NDArray]], limit: float = 0.3) -> Figure:
    """Per-region overlap against the false positive rate, with the AU-PRO.

    curves: name -> (fpr, pro) from `metrics.pro_curve`. limit: the false positive rate
    up to which the area is taken; curves must reach it, and are drawn up to it.
    """
    metrics.check_limit(limit)
    figure, ax = _curves(curves)
    for (name, curve), style in _styled(curves):
        fpr, overlap = map(metrics.to_numpy, curve)
        if fpr[-1] < limit:
            raise ValueError(
                f"the curve {name!r} ends at {fpr[-1]:g}, before limit={limit:g}; "
                f"compute it with pro_curve(maps, masks, limit={limit:g})."
            )
        end = np.interp(limit, fpr, overlap)
        fpr, overlap = fpr[fpr < limit], overlap[fpr < limit]
        fpr, overlap = np.append(fpr, limit), np.append(overlap, end)
        area = trapezoid(overlap, fpr) / limit
        ax.plot(fpr, overlap, label=f"{name}: {area:.3f}", **style)
    ax.set(xlabel="false positive rate (pixels)", ylabel="per-region overlap")
    ax.set(xlim=(-0.02 * limit, 1.02 * limit), ylim=(-0.02, 1.02))
    _legend_beside(ax, f"AU-PRO to {limit:g}")
    return figure


def training_vitals(log: Any) -> Figure:
    """What a training run reports step by step, one panel per vital sign.

    log: a `TrainingLog` (`.steps`, `.health`) or a dict of lists, name -> values,
    whose optional "step" is the horizontal axis. Panels: loss, energies of data and
    chains, gap, drift-to-noise ratio, clipped and saturated shares, gradient norm; a
    panel whose figures are not in the log is left out. NaN leaves a hole in the curve.
    Raises ValueError for a log with none of these, or lists of different lengths.
    """
    health = dict(log if isinstance(log, Mapping) else log.health)
    steps = health.pop("step", None) if isinstance(log, Mapping) else log.steps
    panels = [
        (title, present, logarithmic)
        for title, names, logarithmic in VITALS
        if (present := [name for name in names if len(health.get(name, ()))])
    ]
    if not panels:
        raise ValueError(
            "the log holds none of the vital signs "
            f"{[name for _, names, _ in VITALS for name in names]}, only "
            f"{sorted(health)}."
        )
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, size=(3.3 * columns, 2.5 * rows))
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, (title, names, logarithmic) in zip(axes.flat, panels, strict=False):
        for (name, values), style in _styled({name: health[name] for name in names}):
            values = metrics.to_numpy(values).astype(float)
            x = np.arange(len(values)) if steps is None else metrics.to_numpy(steps)
            if len(x) != len(values):
                raise ValueError(f"{name}: {len(values)} values at {len(x)} steps.")
            label = name.removeprefix("chain_").replace("_", " ")
            ax.plot(x, values, label=label, lw=1.2, **style)
        ax.set(title=title, xlabel="step")
        ax.locator_params(axis="x", nbins=5)
        if logarithmic and min(np.nanmin(line.get_ydata()) for line in ax.lines) > 0:
            _log_axis(ax)
        if title.startswith("gap"):
            ax.axhline(0, color=INK, lw=0.8, ls="-")
        if len(names) > 1:
            ax.legend(fontsize=9)
    return figure


# --- The parts -------------------------------------------------------------------


def new_figure(
    rows: int, columns: int, size: tuple[float, float]
) -> tuple[Figure, NDArray]:
    """A figure with (rows, columns) axes and `size` in inches, closed in pyplot.

    A notebook shows it once, when it ends a cell, and not a second time.
    """
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained"
    )
    plt.close(figure)
    return figure, axes


def _curves(named: Mapping) -> tuple[Figure, Axes]:
    if not named:
        raise ValueError("no curve to draw: the mapping from names is empty.")
    figure, axes = new_figure(1, 1, size=(6.8, 4.0))
    return figure, axes[0, 0]


def _styled(named: Mapping) -> Iterator[tuple[tuple, dict[str, Any]]]:
    """The items, each with a color and a dash pattern of its own."""
    for i, item in enumerate(named.items()):
        yield item, {"color": CYCLE[i % len(CYCLE)], "ls": DASHES[i % len(DASHES)]}


def _legend_above(ax: Axes) -> None:
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _legend_beside(ax: Axes, title: str) -> None:
    legend = ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), title=title)
    legend.set_alignment("left")


def _log_axis(ax: Axes) -> None:
    """A logarithmic axis with a few plain numbers: round ones, far enough apart."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    decades = math.log10(high / low)
    if decades < 0.5:  # not one decade may be in it
        locator: ticker.Locator = ticker.MaxNLocator(4)
    else:
        subs = (1, 2, 5) if decades < 2 else (1,)
        locator = ticker.LogLocator(subs=subs, numticks=6)
    ax.yaxis.set_major_locator(locator)
    ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_locator(ticker.NullLocator())


def _outline(ax: Axes, mask: NDArray) -> None:
    """The border of a mask; light on dark, so that it reads on any image."""
    if mask.any():
        padded = np.pad(mask, 1).astype(float)  # closes outlines at the border
        at = [np.arange(n) - 1 for n in padded.shape]
        for color, width in (("black", 2.0), ("#7CFC9A", 1.0)):
            ax.contour(at[1], at[0], padded, [0.5], colors=color, linewidths=width)
        ax.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def _beyond(heat: NDArray, vmin: float, vmax: float) -> str:
    """Which ends of the color bar get an arrow because values lie outside."""
    below, above = heat.min() < vmin, heat.max() > vmax
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[
        int(below), int(above)
    ]


def _pictures(images: Array) -> NDArray:
    """(N, H, W) for gray or (N, H, W, 3) for color, checked."""
    pictures = metrics.to_numpy(images)
    if pictures.ndim == 4 and pictures.shape[1] in (1, 3):
        pictures = np.moveaxis(pictures, 1, -1)
        pictures = pictures[..., 0] if pictures.shape[-1] == 1 else pictures
    elif pictures.ndim != 3:
        raise ValueError(
            "images must be (N, C, H, W) with C = 1 or 3, or (N, H, W), got "
            f"{pictures.shape}."
        )
    if not pictures.size:
        raise ValueError(f"no image to show: shape {pictures.shape}.")
    _check_finite(pictures, "images")
    if pictures.min() < 0 or pictures.max() > 1:
        raise ValueError(
            f"images must be in [0, 1], got {pictures.min():.3g} to "
            f"{pictures.max():.3g}; clamp them, or divide 8-bit images by 255."
        )
    return pictures


def _maps(maps: Array) -> NDArray:
    heat = metrics.to_numpy(maps)
    if heat.ndim != 3:
        raise ValueError(f"maps must be (N, H, W), got {heat.shape}.")
    _check_finite(heat, "maps")
    return heat


def _outlines(masks: Array | None, shape: tuple[int, ...]) -> NDArray | None:
    if masks is None:
        return None
    outlines = metrics.to_numpy(masks)
    if outlines.shape != shape:
        raise ValueError(f"masks must be {shape} like the maps, got {outlines.shape}.")
    if outlines.dtype != bool:
        raise TypeError(f"masks must be bool, got {outlines.dtype}; use masks > 0.")
    return outlines


def _check_titles(titles: Sequence[str] | None, count: int) -> None:
    if titles is not None and len(titles) != count:
        raise ValueError(f"got {len(titles)} titles for {count} images.")


def _columns(columns: int) -> int:
    if columns < 1:
        raise ValueError(f"columns must be >= 1, got {columns}.")
    return columns


def _check_finite(values: NDArray, name: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} hold NaN or infinite values; find out why first.")
