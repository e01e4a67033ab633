"""Figures: what they show equals what was passed, and mistakes are named."""

import io
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ebmlib import metrics, plotting


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        plotting.use_style()
        yield


def some_images(n=4, channels=3, side=12):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, channels, side, side, generator=generator)


def some_masks(n=4, side=12):
    masks = torch.zeros(n, side, side, dtype=torch.bool)
    masks[1:, 2:5, 3:7] = True
    return masks


LABELS = np.array([0, 0, 0, 1, 1, 1])
SCORES = np.array([0.1, 0.4, 0.2, 0.3, 0.9, 0.8])
LOG = {
    "step": [0, 10, 20],
    "loss": [3.0, 2.0, 1.0],
    "energy_data": [0.0, 1.0, 1.0],
    "energy_chain": [0.0, 2.0, 2.0],
    "gap": [0.0, -1.0, float("nan")],
    "chain_drift_to_noise": [0.1, 1.0, 10.0],
    "unknown": [1, 2, 3],
}


def some_figures():
    images, masks = some_images(), some_masks()
    maps = images.mean(1)
    yield plotting.image_grid(images, titles=list("abcd"), columns=3)
    yield plotting.map_overlay(images, maps, masks)
    yield plotting.score_histogram(SCORES, LABELS, threshold=0.35)
    yield plotting.roc({"a": SCORES, "b": torch.tensor(-SCORES)}, LABELS)
    yield plotting.pro({"a": metrics.pro_curve(maps, masks)})
    yield plotting.training_vitals(LOG)


@pytest.fixture(scope="module")
def figures():
    with plt.rc_context():
        plotting.use_style()
        return list(some_figures())


def test_every_function_returns_a_figure_that_is_drawn_and_not_shown(figures):
    for figure in figures:
        assert isinstance(figure, Figure)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=30)
        assert picture.getvalue()[:4] == b"\x89PNG"
    assert plt.get_fignums() == []  # a notebook cell shows the returned one only


def test_text_contrasts_with_the_background_that_the_figure_carries(figures):
    def luminance(color):  # WCAG 2.1, relative luminance
        c = np.array(to_rgb(color))
        linear = np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for figure in figures:
        paper = figure.get_facecolor()
        assert paper[3] == 1  # opaque: the page behind does not matter
        for text in figure.findobj(matplotlib.text.Text):
            ratio = (luminance(paper) + 0.05) / (luminance(text.get_color()) + 0.05)
            assert ratio > 7


def test_grid_shows_the_pixels_as_they_are():
    for images in (some_images(3, 3), some_images(3, 1), some_images(3, 1)[:, 0]):
        figure = plotting.image_grid(images, columns=2)
        assert len(figure.axes) == 4
        for image, ax in zip(images, figure.axes, strict=False):
            shown = ax.images[0]
            assert shown.get_clim() == (0, 1)
            expected = image.movedim(0, -1) if image.ndim == 3 else image
            np.testing.assert_array_equal(shown.get_array(), expected.squeeze())


def test_all_maps_share_one_color_scale():
    images = some_images()
    maps = torch.stack([torch.rand(12, 12) * (k + 1) for k in range(4)])
    for scale in ({}, {"vmin": 0.5, "vmax": 2.0}):
        figure = plotting.map_overlay(images, maps, some_masks(), **scale)
        shown = [ax.images[0] for ax in figure.axes if ax.images]
        limits = {im.get_clim() for im in shown if im.get_cmap().name == plotting.HEAT}
        low, high = (0.5, 2.0) if scale else (maps.min().item(), maps.max().item())
        assert limits == {(low, high)}


def test_histogram_counts_every_image_and_states_the_flagged_share():
    figure = plotting.score_histogram(SCORES, LABELS, threshold=0.35, bins=5)
    ax = figure.axes[0]
    bars = [patch for box in ax.containers for patch in box.patches]
    assert sum(p.get_height() for p in bars if p.get_facecolor()[3] < 1) >= 6
    labels = ax.get_legend_handles_labels()[1]
    assert "normal (3), 33% flagged" in labels
    assert "anomalous (3), 67% flagged" in labels
    assert "threshold 0.35" in labels
    at_a_score = plotting.score_histogram(SCORES, LABELS, threshold=float(SCORES[2]))
    flagged = (SCORES[:3] > SCORES[2]).mean()  # as the detector does: above, not at
    shown = at_a_score.axes[0].get_legend_handles_labels()[1]
    assert f"normal (3), {flagged:.0%} flagged" in shown
    only_normal = plotting.score_histogram(SCORES[:3], LABELS[:3])
    assert only_normal.axes[0].get_legend_handles_labels()[1] == ["normal (3)"]


def test_curves_carry_their_areas():
    figure = plotting.roc({"model": SCORES, "reverse": -SCORES}, LABELS)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels[:2] == ["model: 0.889", "reverse: 0.111"]
    maps, masks = some_images().mean(1), some_masks()
    for limit in (0.05, 0.3):
        curve = metrics.pro_curve(maps, masks)  # longer than needed: it is cut
        labels = plotting.pro({"m": curve}, limit).axes[0].get_legend_handles_labels()
        assert labels[1] == [f"m: {metrics.au_pro(maps, masks, limit):.3f}"]
    short = metrics.pro_curve(maps, masks, 0.1)
    with pytest.raises(ValueError, match=r"ends at 0\.1, before limit=0\.3"):
        plotting.pro({"m": short})


def test_curves_differ_in_dashes_as_well_as_in_color():
    names = {str(k): SCORES for k in range(len(plotting.CYCLE))}
    lines = plotting.roc(names, LABELS).axes[0].lines[:-1]
    assert len({line.get_color() for line in lines}) == len(names)
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == len(names)


def test_chance_is_drawn_like_no_curve():
    figure = plotting.roc({str(i): SCORES for i in range(7)}, LABELS)
    *curves, chance = figure.axes[0].lines
    patterns = [line._unscaled_dash_pattern[1] for line in curves]
    assert chance._unscaled_dash_pattern[1] not in patterns


@pytest.mark.parametrize(
    ("low", "high"),
    [(1.1, 1.9), (0.98, 1.02), (0.3, 3), (2, 9), (1, 60), (0.02, 70), (1e-9, 1e6)],
)
def test_a_logarithmic_axis_has_a_few_labels_that_do_not_touch(low, high):
    log = {"step": range(5), "loss": [1.0] * 5, "gap": [1.0] * 5}
    log["gradient_norm"] = np.geomspace(low, high, 5)
    figure = plotting.training_vitals(log)
    (ax,) = (ax for ax in figure.axes if ax.get_yscale() == "log")
    figure.canvas.draw()
    bottom, top = ax.get_ylim()
    assert bottom > 0
    labels = [
        label.get_window_extent()
        for label, at in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)
        if bottom <= at <= top
    ]
    assert 2 <= len(labels) <= 7
    for below, above in pairwise(sorted(labels, key=lambda box: box.y0)):
        assert below.y1 < above.y0


def test_an_axis_is_logarithmic_only_if_every_curve_is_positive():
    names = [name for title, names, log in plotting.VITALS if log for name in names]
    for name in names:
        log = {"step": [0, 1], "loss": [1.0, 2.0]}
        log |= {other: [1.0, 2.0] for other in names} | {name: [0.0, 2.0]}
        figure = plotting.training_vitals(log)
        scales = {
            ax.get_title(): ax.get_yscale() for ax in figure.axes if ax.get_title()
        }
        for title, members, logarithmic in plotting.VITALS:
            if title in scales:
                positive = logarithmic and name not in members
                assert scales[title] == ("log" if positive else "linear"), title


def test_vitals_draw_what_the_log_holds():
    log = SimpleNamespace(
        steps=LOG["step"], health={k: v for k, v in LOG.items() if k != "step"}
    )
    for source in (log, LOG):
        figure = plotting.training_vitals(source)
        panels = {ax.get_title(): ax for ax in figure.axes if ax.get_title()}
        assert list(panels) == [
            "loss",
            "energy",
            "gap E(data) - E(chain)",
            "drift-to-noise ratio",
        ]
        energy = panels["energy"].lines
        np.testing.assert_array_equal(energy[0].get_xdata(), LOG["step"])
        np.testing.assert_array_equal(energy[1].get_ydata(), LOG["energy_chain"])
        assert panels["drift-to-noise ratio"].get_yscale() == "log"
    assert "step" in LOG and "steps" not in LOG  # the caller's dict is left alone


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: plotting.image_grid(2 * some_images()), r"in \[0, 1\], got"),
        (lambda: plotting.image_grid(some_images()[0, 0]), r"\(N, C, H, W\)"),
        (lambda: plotting.image_grid(some_images(channels=2)), r"\(4, 2, 12, 12\)"),
        (lambda: plotting.image_grid(some_images()[:0]), "no image"),
        (lambda: plotting.image_grid(some_images() * np.nan), "NaN"),
        (lambda: plotting.image_grid(some_images(), ["a"]), "1 titles for 4"),
        (lambda: plotting.image_grid(some_images(), columns=0), "columns"),
        (
            lambda: plotting.map_overlay(some_images(), torch.rand(4, 6, 6)),
            "one map per image",
        ),
        (
            lambda: plotting.map_overlay(some_images(), torch.zeros(4, 12, 12)),
            "constant map",
        ),
        (
            lambda: plotting.map_overlay(
                some_images(), torch.rand(4, 12, 12), some_masks(3)
            ),
            "masks must be",
        ),
        (lambda: plotting.score_histogram(SCORES, LABELS[1:]), "same N"),
        (lambda: plotting.score_histogram(SCORES * np.inf, LABELS), "infinite"),
        (lambda: plotting.roc({}, LABELS), "no curve"),
        (lambda: plotting.roc({"a": SCORES}, LABELS * 0), "both classes"),
        (lambda: plotting.pro({"a": ([0, 1], [0, 1])}, limit=0), "limit"),
        (lambda: plotting.training_vitals({"x": [1]}), r"only \['x'\]"),
        (lambda: plotting.training_vitals({"step": [1], "loss": [1, 2]}), "2 values"),
    ],
)
def test_mistakes_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_masks_that_are_not_bool_are_refused():
    with pytest.raises(TypeError, match="masks > 0"):
        plotting.map_overlay(
            some_images(), torch.rand(4, 12, 12), some_masks().to(torch.uint8)
        )
