"""Charts as SVG text: no library, no color of their own.

Colors are variables of the page's style sheet, so that a chart follows it from light to
dark. Every chart has a name and a description for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import count as counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 56
ROW, TOP, BOTTOM, SIDE = 46, 22, 44, 12  # px of the chart of scores
SKEW = 8  # ratio of high to usual scores beyond which their axis is logarithmic
_ids = counter(1)  # names of elements on the page


@dataclass
class Svg:
    """A drawing of `width` x `height` units; the methods add to it, `text` gives it."""

    width: float
    height: float
    parts: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A straight line; `style` names a class of the page."""
        points = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self.parts.append(f'<line class="{style}" {points}/>')

    def rect(self, x: float, y: float, w: float, h: float, style: str) -> None:
        """A rectangle from its upper left corner."""
        box = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"'
        self.parts.append(f'<rect class="{style}" {box}/>')

    def circle(self, x: float, y: float, radius: float, style: str) -> None:
        """A disk."""
        self.parts.append(
            f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
        )

    def path(self, x: NDArray, y: NDArray, style: str) -> None:
        """A line through points."""
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        self.parts.append(f'<polyline class="{style}" points="{points}"/>')

    def words(
        self, x: float, y: float, words: str, anchor: str = "start", style: str = ""
    ) -> None:
        """Text whose baseline is at y; `anchor` is "start", "middle" or "end"."""
        self.parts.append(
            f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def text(self, name: str, description: str, style: str = "") -> str:
        """The element, with what it is called and what is to be seen on it."""
        key = f"chart{next(_ids)}"
        return (
            f'<svg class="chart {style}" role="img" '
            f'viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
            f'aria-labelledby="{key}n {key}d">'
            f'<title id="{key}n">{escape(name)}</title>'
            f'<desc id="{key}d">{escape(description)}</desc>{"".join(self.parts)}</svg>'
        )


class Axis(NamedTuple):
    """Values from `low` to `high` on places from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, values: float | NDArray) -> NDArray:
        """Where values lie; those outside lie at the ends."""
        low, high, at = self.low, self.high, np.asarray(values, dtype=float)
        if self.log:
            low, high = math.log(low), math.log(high)
            at = np.log(np.maximum(at, self.low))
        share = ((at - low) / (high - low)).clip(0, 1)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 7) -> list[float]:
        """Round values on the axis, `most` of them at most."""
        if not self.log:
            return ticks(self.low, self.high, most)
        ends = (math.floor(math.log10(end)) for end in (self.low, self.high))
        first, last = ends
        exponents = range(first, last + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [
                digit * 10.0**k
                for k in exponents
                for digit in digits
                if self.low <= digit * 10.0**k <= self.high
            ]
            if 2 <= len(found) <= most:
                break
        return found


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round values from low to high: multiples of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(k for k in (1, 2, 5, 10, 20) if k * step * most >= high - low)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def number(value: float) -> str:
    """Three digits, without an exponent where that is shorter to read."""
    if not math.isfinite(value):
        return str(value)
    text = f"{value:.3g}"
    return f"{value:,.0f}" if "e+" in text and abs(value) < 1e7 else text


def score_axis(scores: NDArray, threshold: float, start: float, end: float) -> Axis:
    """An axis that holds all scores and the threshold."""
    values = np.append(scores, threshold)
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / float(np.median(values)) > SKEW:
        return Axis(low / 1.1, high * 1.1, start, end, log=True)
    margin = 0.04 * (high - low) or max(abs(high), 1e-6) * 0.1
    return Axis(low - margin, high + margin, start, end)


def scores_chart(
    rows: Sequence[tuple[str, NDArray, bool]],
    threshold: float,
    width: int,
    style: str = "",
) -> str:
    """One histogram for each kind of photograph, with the threshold across them.

    Args:
        rows: label, scores, and whether the kind is defective.
        threshold: scores above it are anomalous.
        width: of the drawing.
        style: a class of the page.
    """
    height = TOP + ROW * len(rows) + BOTTOM
    svg = Svg(width, height)
    every = np.concatenate([scores for _, scores, _ in rows])
    axis = score_axis(every, threshold, SIDE, width - SIDE)
    floor = TOP + ROW * len(rows)
    for value in axis.ticks(max(4, width // 90)):
        x = float(axis(value))
        svg.line(x, TOP, x, floor, "grid")
        svg.words(x, floor + 16, number(value), "middle", "small")
    at = float(axis(threshold))
    svg.line(at, TOP - 6, at, floor, "threshold")  # below the labels
    edges = np.linspace(SIDE, width - SIDE, BINS + 1)
    step = edges[1] - edges[0]
    edges += (at - edges[0]) % step - step  # the threshold is an edge of the bars
    edges = np.append(edges, edges[-1] + step)
    for k, (label, scores, defective) in enumerate(rows):
        base = TOP + ROW * (k + 1) - 4
        # The edge at the threshold belongs to the scores that are not above it.
        places = np.where(scores > threshold, axis(scores) + 1e-6, axis(scores) - 1e-6)
        counts, _ = np.histogram(places, edges)
        tallest = max(1, counts.max())
        color = "defect" if defective else "normal"
        for i in np.flatnonzero(counts):
            tall = max(2.0, (ROW - 22) * counts[i] / tallest)
            shade = "" if edges[i] + step / 2 > at else " below"
            svg.rect(edges[i] + 0.5, base - tall, step - 1, tall, f"bar {color}{shade}")
        svg.line(SIDE, base, width - SIDE, base, "axis")
        svg.words(SIDE, base - ROW + 16, label, "start", "halo")
    near_end = at > width / 2
    svg.words(
        at + (-5 if near_end else 5),
        TOP - 9,
        f"threshold {number(threshold)}",
        "end" if near_end else "start",
    )
    log = ", logarithmic" if axis.log else ""
    svg.words(width / 2, floor + 36, f"anomaly score{log}", "middle")
    told = "; ".join(
        f"{label}: scores {number(scores.min())} to {number(scores.max())}, median "
        f"{number(float(np.median(scores)))}"
        for label, scores, _ in rows
    )
    name = "Histograms of the anomaly scores"
    return svg.text(name, f"Threshold {number(threshold)}. {told}.", style)


def curve_chart(
    name: str,
    curve: tuple[NDArray, NDArray],
    labels: tuple[str, str],
    *,
    right: float = 1.0,
    chance: tuple[float, float] | None = None,
    point: tuple[float, float] | None = None,
    told: str = "",
) -> str:
    """A curve in [0, right] x [0, 1].

    Args:
        name: of the chart.
        curve: x and y of its points.
        labels: of the two axes.
        right: the end of the horizontal axis.
        chance: y at both ends of the line that guessing gives.
        point: x and y where the threshold lies.
        told: what is to be seen, for those who do not see it.
    """
    width, height, left, top, bottom = 340, 318, 48, 14, 46
    svg = Svg(width, height)
    across = Axis(0, right, left, width - 14)
    up = Axis(0, 1, height - bottom, top)
    for value in ticks(0, right, 5):
        x = float(across(value))
        svg.line(x, top, x, height - bottom, "grid")
        svg.words(x, height - bottom + 17, f"{value:g}", "middle", "small")
    for value in ticks(0, 1, 5):
        y = float(up(value))
        svg.line(left, y, width - 14, y, "grid")
        svg.words(left - 7, y + 4, f"{value:g}", "end", "small")
    if chance is not None:
        ends = up(np.array(chance))
        svg.line(left, ends[0], width - 14, ends[1], "chance")
    svg.path(*_thinned(across(curve[0]), up(curve[1])), "curve")
    if point is not None:
        svg.circle(float(across(point[0])), float(up(point[1])), 5, "point")
    svg.words((left + width - 14) / 2, height - 8, labels[0], "middle")
    middle = (top + height - bottom) / 2
    svg.parts.append(
        f'<text transform="translate(13 {middle:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(labels[1])}</text>'
    )
    return svg.text(name, told)


def _thinned(x: NDArray, y: NDArray, most: int = 600) -> tuple[NDArray, NDArray]:
    """Without points that lie on the line between their neighbors, or are too many."""
    x, y = np.round(x, 1), np.round(y, 1)
    if len(x) > 2:
        dx, dy = np.diff(x), np.diff(y)
        turns = dx[1:] * dy[:-1] != dx[:-1] * dy[1:]
        kept = np.concatenate([[True], turns, [True]])
        x, y = x[kept], y[kept]
    step = max(1, math.ceil(len(x) / most))
    if step == 1:
        return x, y
    return np.append(x[:-1:step], x[-1]), np.append(y[:-1:step], y[-1])
