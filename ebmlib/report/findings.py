"""The numbers of a report, without a word of how they are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmlib.baselines import (
    Baseline,
    MeanBrightness,
    PCAReconstruction,
    PerPixelGaussian,
)
from ebmlib.data.images import ImageError, Images, ImageStream, list_images
from ebmlib.detector import EnergyDetector
from ebmlib.metrics import (
    au_pro,
    average_precision,
    bootstrap_interval,
    image_auroc,
    pro_curve,
    roc_curve,
    share_interval,
)
from ebmlib.progress import Progress, Show
from ebmlib.report.photographs import GOOD, Photographs

LIMIT = 0.3  # false positive rate up to which PRO is integrated
DRAWS = {"auroc": 1000, "ap": 1000, "au_pro": 100}  # replicates of each interval
MOST_PIXELS = 2**24  # in all maps; beyond, AU-PRO gets no interval
CURVE_POINTS = 200
SHORTCUT = 0.85  # AUROC of mean brightness, or of its opposite, that is told
COMPONENTS = 20  # of the PCA baseline, or fewer where there are fewer images


@dataclass(frozen=True)
class Share:
    """So many of so many, with an exact 95 % interval."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, NaN of nothing."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """See `ebmlib.metrics.share_interval`."""
        return share_interval(self.count, self.total)


@dataclass(frozen=True)
class Measure:
    """A number in [0, 1] with its interval, if there is one."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Kind:
    """What was found of one kind of photograph.

    Attributes:
        name: "good", a kind of defect, or "" without labels.
        scores: of its photographs.
        flagged: how many have a score above the threshold.
        located: of those with a mask, how many have a flagged pixel in it; None where
            there are no masks.
    """

    name: str
    scores: NDArray
    flagged: Share
    located: Share | None = None


@dataclass(frozen=True)
class Row:
    """One method in the comparison: measures by name, those of `DRAWS`."""

    label: str
    measures: dict[str, Measure]


@dataclass
class Findings:
    """Everything a report says, in the order of the photographs that could be read.

    Attributes:
        index: which photographs these are, of those given.
        scores: higher for more anomalous.
        p_values: see `ebmlib.calibration.conformal_p_values`.
        flagged: bool, score above the threshold.
        defective: bool; None without labels.
        kinds: "good" first, each with its numbers; one without labels.
        rows: the detector, then trivial baselines; empty unless both classes are there.
        curves: `(x, y)` by name: "roc", "pr" and "pro".
        skipped: `(name, problem)` of what could not be read.
        notes: what a reader should know, in words.
    """

    index: list[int]
    scores: NDArray
    p_values: NDArray
    flagged: NDArray
    defective: NDArray | None = None
    kinds: list[Kind] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    curves: dict[str, tuple[NDArray, NDArray]] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def found(self) -> Share | None:
        """Of the defective photographs, how many are flagged; None without labels."""
        return None if self.defective is None else self._flagged(self.defective)

    @property
    def false_alarms(self) -> Share | None:
        """Of the good photographs, how many are flagged; None without labels."""
        return None if self.defective is None else self._flagged(~self.defective)

    def _flagged(self, which: NDArray) -> Share:
        return Share(int(self.flagged[which].sum()), int(which.sum()))


def measure(
    detector: EnergyDetector,
    photos: Photographs,
    good: Images | None = None,
    *,
    on_error: str = "raise",
    progress: Show = False,
) -> Findings:
    """Score the photographs, and measure what their labels and masks allow.

    Args:
        detector: fitted.
        photos: what to score.
        good: normal images from which the trivial baselines learn; None: no baselines.
        on_error: "raise", or "skip" photographs that cannot be read.
        progress: as in `ebmlib.progress.Progress`.

    Raises:
        ImageError: a photograph or a mask cannot be read.
        ValueError: too few good images for the baselines.
    """
    masks, notes = None, list(photos.notes)
    if photos.has_masks:  # before the scoring: a mask that does not fit ends the work
        masks, vanished = photos.read_masks(detector.image_size)
        notes += _first(vanished)
    baselines = _baselines(detector, good) if good is not None else []
    found, maps, located = _score(detector, photos, masks, on_error, progress)
    found.notes += notes
    if photos.labeled:
        _count_kinds(found, photos, located)
        _compare(detector, found, photos, masks, maps, baselines)
        _note_overlap(found, photos, good)
        _note_brightness(found)
        _note_threshold(detector, found)
    else:
        found.kinds = [Kind("", found.scores, found._flagged(found.scores > -math.inf))]
    return found


def _score(
    detector: EnergyDetector,
    photos: Photographs,
    masks: Tensor | None,
    on_error: str,
    progress: Show,
) -> tuple[Findings, Tensor | None, NDArray | None]:
    """Scores of all, their maps where there are masks, and whether each was located."""
    place = {str(path): i for i, path in enumerate(photos.paths)}
    columns: list[list[Tensor]] = [[], [], []]
    index: list[int] = []
    maps, located, skipped = [], [], []
    with Progress(len(place), progress, label="photographs") as bar:
        for part in detector.stream(photos.paths, on_error=on_error):
            here = [place[name] for name in part.names]
            index += here
            for column, values in zip(
                columns, (part.scores, part.p_values, part.anomalous), strict=True
            ):
                column.append(values)
            if masks is not None:
                maps.append(part.maps)
                located.append((part.masks & masks[here]).flatten(1).any(1))
            skipped += [(photos.names[place[n]], why) for n, why in part.errors]
            bar.update(len(index) + len(skipped))
    scores, p_values, flagged = (torch.cat(column).numpy() for column in columns)
    found = Findings(index, scores, p_values, flagged, skipped=skipped)
    if masks is None:
        return found, None, None
    return found, torch.cat(maps), torch.cat(located).numpy()


def _count_kinds(found: Findings, photos: Photographs, located: NDArray | None) -> None:
    kinds = np.array([photos.samples[i].kind for i in found.index])
    marked = np.array([photos.samples[i].mask is not None for i in found.index])
    found.defective = kinds != GOOD
    for name in sorted(set(kinds.tolist()), key=lambda name: (name != GOOD, name)):
        mine = kinds == name
        where = None
        if located is not None and name != GOOD and (mine & marked).any():
            hit = located & mine & marked
            where = Share(int(hit.sum()), int((mine & marked).sum()))
        kind = Kind(name, found.scores[mine], found._flagged(mine), where)
        found.kinds.append(kind)


def _compare(
    detector: EnergyDetector,
    found: Findings,
    photos: Photographs,
    masks: Tensor | None,
    maps: Tensor | None,
    baselines: list[Baseline],
) -> None:
    """Curves and measures of the detector, and measures of the baselines."""
    labels = found.defective
    assert labels is not None
    if masks is not None:
        masks = masks[found.index]
    name = f"this detector ({detector.recipe_.name})"
    row = Row(name, _measures(found.scores, labels, maps, masks, intervals=True))
    if row.measures:
        found.rows.append(row)
    if "auroc" in row.measures:
        rates, recall, _ = roc_curve(found.scores, labels)
        found.curves["roc"] = rates, recall
        found.curves["pr"] = _precision(found.scores, labels)
    if masks is not None and maps is not None and "au_pro" in row.measures:
        x, y = pro_curve(maps, masks, LIMIT)
        steep = LIMIT * np.geomspace(1e-5, 1, CURVE_POINTS)
        at = np.union1d(np.linspace(0, LIMIT, CURVE_POINTS), steep)
        found.curves["pro"] = at, np.interp(at, x, y)
    del maps
    if not found.rows:
        return
    made = _baseline_maps(detector, found, photos, baselines)
    for baseline, (scores, heat) in zip(baselines, made, strict=True):
        measures = _measures(scores.numpy(), labels, heat, masks, intervals=False)
        found.rows.append(Row(baseline.label, measures))


def _baseline_maps(
    detector: EnergyDetector,
    found: Findings,
    photos: Photographs,
    baselines: list[Baseline],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores and maps of each baseline, read with the detector's own settings."""
    stream = _stream(detector, [photos.paths[i] for i in found.index])
    for baseline in baselines:
        parts = [
            (baseline.anomaly_score(batch.images), baseline.anomaly_map(batch.images))
            for batch in stream
        ]
        scores, maps = zip(*parts, strict=True)
        yield torch.cat(scores), torch.cat(maps)


def _stream(detector: EnergyDetector, source: Images) -> ImageStream:
    """Images as the detector reads them."""
    return ImageStream(
        source,
        size=detector.image_size,
        channels=detector.pipeline_.channels,
        bits=detector.bits_,
    )


def _measures(
    scores: NDArray,
    labels: NDArray,
    maps: Tensor | None,
    masks: Tensor | None,
    *,
    intervals: bool,
) -> dict[str, Measure]:
    """What can be measured: image scores with both classes, maps with any defect."""
    found: dict[str, Measure] = {}

    def add(name: str, metric: Callable[..., float], *columns: NDArray) -> None:
        interval, value = None, metric(*columns)
        # All pairs in order stay so in every resample: that tells nothing.
        if intervals and columns[0].size <= MOST_PIXELS and 0 < value < 1:
            interval = bootstrap_interval(
                metric, *columns, n=DRAWS[name], stratify=labels
            )
        found[name] = Measure(value, interval)

    if labels.any() and not labels.all():
        add("auroc", image_auroc, scores, labels)
        add("ap", average_precision, scores, labels)
    if maps is not None and masks is not None and masks.any():
        add("au_pro", au_pro, maps.numpy(), masks.numpy())
    return found


def _precision(scores: NDArray, labels: NDArray) -> tuple[NDArray, NDArray]:
    """Recall and precision at every threshold, the highest first."""
    rates, recall, _ = roc_curve(scores, labels)
    true, false = recall * labels.sum(), rates * (~labels).sum()
    return recall[1:], (true / (true + false).clip(1))[1:]


def _baselines(detector: EnergyDetector, good: Images) -> list[Baseline]:
    """The trivial baselines, fitted to good images at the detector's size."""
    size = detector.image_size
    images = _stream(detector, good).read().images
    if len(images) < 3:
        raise ValueError(
            f"the trivial baselines need at least 3 good images, got {len(images)}"
        )
    components = min(COMPONENTS, len(images) - 1)
    made: tuple[Baseline, ...] = (
        MeanBrightness(image_size=size),
        PerPixelGaussian(image_size=size),
        PCAReconstruction(components, image_size=size),
    )
    return [baseline.fit(images) for baseline in made]


def _note_overlap(found: Findings, photos: Photographs, good: Images | None) -> None:
    """Say so where the same file is learned from and tested on."""
    if not isinstance(good, str) and not hasattr(good, "__fspath__"):
        return
    try:
        learned = {path.resolve() for path in list_images(good)}  # type: ignore[arg-type]
    except ImageError:
        return
    both = sum(path.resolve() in learned for path in photos.paths)
    if both:
        found.notes.append(
            f"{both} of the photographs are among the good images that the baselines "
            "learned from: the comparison favors the baselines"
        )


def _note_brightness(found: Findings) -> None:
    """A shortcut: the illumination alone says which photographs are defective."""
    for row in found.rows:
        if row.label == MeanBrightness.label and "auroc" in row.measures:
            value = row.measures["auroc"].value
            if max(value, 1 - value) >= SHORTCUT:
                found.notes.append(
                    f"mean brightness alone has an AUROC of {value:.2f}: good and "
                    "defective photographs differ in brightness, by their defects or "
                    "by the illumination. If by the illumination, all scores may tell "
                    "of it"
                )


def _note_threshold(detector: EnergyDetector, found: Findings) -> None:
    """Another threshold would find many more, at no more than the rate asked for."""
    if "roc" not in found.curves or found.found is None:
        return
    alarms, recall = found.curves["roc"]
    possible = float(recall[alarms <= detector.false_alarm_rate].max())
    if possible >= found.found.value + 0.1:
        found.notes.append(
            f"a lower threshold would find {100 * possible:.0f} % of the defective "
            f"photographs with at most {100 * detector.false_alarm_rate:g} % false "
            f"alarms; the one in use finds {100 * found.found.value:.0f} %. Few good "
            "photographs set it, and one unusual photograph among them raises it. Do "
            "not set it from this page: calibrate the detector on more good photographs"
        )


def _first(notes: tuple[str, ...], limit: int = 5) -> list[str]:
    more = len(notes) - limit
    return [
        *notes[:limit],
        *([f"and {more} more masks with lost regions"] * (more > 0)),
    ]
