"""Sliders for readers who run a chapter: move one number, and the picture answers.

Chapters 3 (the step of a Langevin chain), 8 (a threshold) and 9 (the smoothing of a
map) offer one each. Every function returns a widget of three parts: a slider, a
sentence with the numbers, and the kind of picture that the chapter prints for those
who read. A chapter shows it only where `live` says that somebody can move it, so stored
outputs hold no widget, and comparing them stays possible.
"""

import importlib.util
import io
import math
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ebmlib import metrics, plotting
from ebmlib.energy import Energy
from ebmlib.langevin import ChainDiverged, langevin
from ebmlib.scoring import smooth

Widget = Any  # an ipywidgets.Widget, which is imported only when one is made


def live() -> bool:
    """Whether a person who can move a slider runs this cell.

    With every cell a front end says whether it could answer a question of the program.
    JupyterLab and VS Code can; what executes notebooks on its own (nbclient, nbval)
    cannot. The environment variable EBMLIB_WIDGETS, "1" or "0", overrules it.

    Raises:
        ValueError: EBMLIB_WIDGETS is set to something else.
    """
    wish = os.environ.get("EBMLIB_WIDGETS")
    if wish is not None:
        if wish not in ("0", "1"):
            raise ValueError(f'EBMLIB_WIDGETS must be "0" or "1", got {wish!r}')
        return wish == "1"
    if importlib.util.find_spec("ipywidgets") is None:
        return False
    if "google.colab" in sys.modules:  # its cells do not say
        return True
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    request: Any = getattr(shell, "get_parent", dict)()  # no kernel, no request
    return bool(request.get("content", {}).get("allow_stdin", False))


def threshold(
    scores: Tensor,
    labels: Tensor,
    value: float | None = None,
    *,
    xlabel: str = "anomaly score",
) -> Widget:
    """Move the threshold on the histogram of the scores (chapter 8).

    Args:
        scores: `(N,)`, finite and not all equal, higher for more anomalous.
        labels: `(N,)` bool, True = anomalous.
        value: where the slider starts, by default the largest normal score.
        xlabel: what the scores are.

    Raises:
        ImportError: ipywidgets is missing.
        ValueError: shapes that differ, no normal image, or scores that are all equal.
    """
    scores, labels = torch.as_tensor(scores), torch.as_tensor(labels).bool()
    if scores.ndim != 1 or scores.shape != labels.shape or labels.all():
        raise ValueError(
            "scores and labels must be (N,) with at least one normal image, got "
            f"{tuple(scores.shape)} and {tuple(labels.shape)}"
        )
    low, high = float(scores.min()), float(scores.max())
    if not low < high < math.inf:
        raise ValueError(f"scores must be finite and differ, got {low} to {high}")
    start = float(scores[~labels].max()) if value is None else value

    def draw(at: float) -> tuple[str, Figure]:
        flagged = scores > at
        normal, anomalous = flagged[~labels], flagged[labels]
        sentence = (
            f"threshold {at:.3g}: flags {normal.sum()} of {len(normal)} normal and "
            f"{anomalous.sum()} of {len(anomalous)} anomalous images"
        )
        figure = plotting.score_histogram(scores, labels, at, xlabel=xlabel)
        return sentence, figure

    options = {"min": low, "max": high, "step": (high - low) / 200}
    return _respond("FloatSlider", "threshold", start, draw, **options)


def smoothing(
    image: Tensor,
    raw_map: Tensor,
    mask: Tensor | None = None,
    value: float = 1.0,
    *,
    largest: float = 8.0,
) -> Widget:
    """Move the width of the Gaussian that smooths a map (chapter 9).

    Args:
        image: `(C, H, W)` in [0, 1].
        raw_map: its map `(H, W)` before smoothing, at least 0.
        mask: its defect `(H, W)` bool; then the sentence tells the pixel AUROC of
            this one image.
        value: where the slider starts, in pixels.
        largest: where it ends.

    Raises:
        ImportError: ipywidgets is missing.
        ValueError: shapes that differ.
    """
    if raw_map.shape != image.shape[1:]:
        raise ValueError(
            f"need one map value a pixel: the image is {tuple(image.shape)} (C, H, W), "
            f"the map {tuple(raw_map.shape)}"
        )
    top = float(raw_map.quantile(0.995)) or 1.0  # one color scale for all widths
    outline = None if mask is None else mask[None]

    def draw(sigma: float) -> tuple[str, Figure]:
        maps = smooth(raw_map[None], sigma)  # (1, H, W)
        sentence = f"smoothing {sigma:.1f} px: largest value {float(maps.max()):.3g}"
        if outline is not None:
            sentence += f", pixel AUROC {metrics.pixel_auroc(maps, outline):.3f}"
        figure = plotting.map_overlay(image[None], maps, outline, vmin=0, vmax=top)
        return sentence, figure

    options = {"min": 0.0, "max": largest, "step": 0.1}
    return _respond("FloatSlider", "smoothing", value, draw, **options)


def step_size(
    energy: Energy,
    start: Tensor,
    value: float,
    *,
    steps: int = 200,
    largest: float = 1.0,
    span: tuple[float, float] = (-4.0, 4.0),
    seed: int = 0,
) -> Widget:
    """Move the step of Langevin chains in one dimension (chapter 3).

    The chains always start at the same places with the same noise. The line is the
    exact density, from the energy on a grid over `span`.

    Args:
        energy: `(B, 1) -> (B,)`.
        start: where the chains begin, `(B, 1)`.
        value: where the slider starts; it is logarithmic over three decades.
        steps: of each chain.
        largest: the largest step size.
        span: the interval that is drawn.
        seed: of the noise.

    Raises:
        ImportError: ipywidgets is missing.
        ValueError: chains in more than one dimension.
    """
    if start.ndim != 2 or start.shape[1] != 1:
        raise ValueError(f"start must be (B, 1), got {tuple(start.shape)}")
    axis = torch.linspace(*span, 401)
    density = torch.softmax(-energy(axis[:, None]), 0) / (axis[1] - axis[0])

    def draw(step: float) -> tuple[str, Figure]:
        figure, ax = plt.subplots(figsize=(6, 3.2))
        plt.close(figure)
        ax.plot(axis, density, color=plotting.VERMILION, ls="-", label="exact")
        ax.set(xlabel="x", ylabel="density", xlim=span)
        generator = torch.Generator().manual_seed(seed)
        try:
            run = langevin(
                energy, start, steps=steps, step_size=step, generator=generator
            )
        except ChainDiverged:
            return f"step size {step:.3g}: the chains diverge", figure
        end = run.x[:, 0]
        ax.hist(end, 64, range=span, density=True, alpha=0.6, label="chains")
        ax.legend()
        ratio, spread = run.health.drift_to_noise, float(end.std())
        sentence = (
            f"step size {step:.3g}, {steps} steps: drift to noise {ratio:.2f}, "
            f"standard deviation {spread:.2f}"
        )
        return sentence, figure

    top = math.log10(largest)
    options = {"min": top - 3, "max": top, "step": 0.02}  # decimal logarithms
    return _respond("FloatLogSlider", "step size", value, draw, **options)


def _ipywidgets() -> ModuleType:
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError(
            "a slider needs ipywidgets: pip install ipywidgets. The chapter shows the "
            "same picture without it"
        ) from error
    return ipywidgets


def _respond(
    kind: str,
    name: str,
    value: float,
    draw: Callable[[float], tuple[str, Figure]],
    **span: float,
) -> Widget:
    """A slider above a sentence and a picture, both made anew when it moves.

    The slider keeps the value inside its range.
    """
    widgets = _ipywidgets()
    look: dict[str, Any] = {"description": name, "readout_format": ".3g"}
    look |= {"style": {"description_width": "initial"}, "layout": {"width": "32em"}}
    slider = getattr(widgets, kind)(value=value, **span, **look)
    sentence = widgets.Label()
    picture = widgets.Image(format="png", layout={"max_width": "100%"})

    def follow(*_: object) -> None:
        sentence.value, figure = draw(slider.value)
        png = io.BytesIO()
        figure.savefig(png, format="png")
        picture.value = png.getvalue()

    slider.observe(follow, names="value")
    follow()
    parts = [slider, sentence, picture]
    # Else the picture is blown up to the width of the cell, out of the slider's sight.
    return widgets.VBox(parts, layout={"align_items": "flex-start"})
