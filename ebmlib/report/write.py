"""From a detector and a folder of photographs to one HTML file."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import math
import os
import platform
import secrets
import time
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ebmlib
from ebmlib.calibration import exact_rate
from ebmlib.data.images import Images
from ebmlib.detector import EnergyDetector
from ebmlib.progress import Progress, Show, check_show
from ebmlib.report.charts import number
from ebmlib.report.findings import Findings, measure
from ebmlib.report.page import Gallery, Shown, Story, page_body
from ebmlib.report.photographs import Photographs, Photos, find_photographs
from ebmlib.report.pictures import Scale, color_scale, picture

SUFFIXES = (".html", ".htm")
MOST_SHOWN = 60  # photographs in one gallery; a file holds them all
SCRIPT = """
const sliders = document.querySelectorAll('.shot input');
const move = (slider) => {
  slider.previousElementSibling.style.setProperty('--at', slider.value + '%');
  slider.setAttribute('aria-valuetext', slider.value + ' % map');
};
for (const slider of sliders) {
  slider.addEventListener('input', () => move(slider));
  move(slider);
}
const all = document.getElementById('all');
all?.addEventListener('input', () => {
  for (const slider of sliders) { slider.value = all.value; move(slider); }
});
"""


def write_report(
    detector: EnergyDetector | str | Path,
    photos: Photos,
    path: str | Path,
    *,
    good: Images | None = None,
    title: str | None = None,
    shown: int = 8,
    on_error: str = "raise",
    progress: Show = "auto",
) -> Findings:
    """Score photographs and write what was found as one self-contained HTML file.

    The file holds scores and threshold; ROC, PR and PRO curves, where there are labels
    and masks; what was found of every kind, with exact intervals; trivial baselines,
    if good images are given; the most anomalous, the missed and the falsely flagged
    photographs with their maps; settings and versions. It makes no request. With the
    default of 8 photographs in each gallery it has some 2 MB.

    A report shows photographs: whoever gets the file gets them too.

    Args:
        detector: fitted, or the file of one.
        photos: a folder, or a list of files, see
            `ebmlib.report.photographs.find_photographs`.
        path: of the file, `.html`; an older one is replaced in one step, at the end.
        good: normal images from which trivial baselines learn, as in
            `EnergyDetector.fit`; None leaves the baselines out.
        title: of the page; None: made of the folder's name.
        shown: photographs in each gallery, from 0 to MOST_SHOWN.
        on_error: "raise", or "skip" photographs that cannot be read and list them.
        progress: as in `ebmlib.progress.Progress`.

    Returns:
        The numbers that the report shows.

    Raises:
        FileNotFoundError: no file of a detector.
        ValueError: a path that cannot be written, which is tried first; arguments out
            of range; photographs or masks that cannot be read, or do not pair up.
    """
    path = _writable(path)
    if not 0 <= shown <= MOST_SHOWN:
        raise ValueError(f"shown must lie in [0, {MOST_SHOWN}], got {shown}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
    check_show(progress)
    file = None
    if not isinstance(detector, EnergyDetector):
        file = Path(detector)
        detector = EnergyDetector.load(file)
    detector.check_fitted()
    given = find_photographs(photos)
    found = measure(detector, given, good, on_error=on_error, progress=progress)
    galleries, scale = _galleries(detector, given, found, shown, progress)
    story = Story(
        title=title or f"Inspection of {given.title}",
        made=f"{len(found.scores):,} photographs, {time.strftime('%Y-%m-%d %H:%M')}",
        threshold=detector.threshold_,
        promise=_promise(detector),
        findings=found,
        names=given.names,
        labels=[sample.kind for sample in given.samples],
        galleries=galleries,
        scale=scale,
        has_masks=given.has_masks,
        settings=_settings(detector, file),
        trained=good is not None,
    )
    _replace(path, _page(story))
    return found


# ------------------------------------------------------------------------ pictures


def _galleries(
    detector: EnergyDetector,
    given: Photographs,
    found: Findings,
    shown: int,
    progress: Show,
) -> tuple[list[Gallery], Scale | None]:
    chosen = _chosen(found)
    places = sorted({int(i) for _, order in chosen for i in order[:shown]})
    if not places:
        return [], None
    paths = [given.paths[found.index[i]] for i in places]
    maps = detector.predict(paths).maps
    scale = color_scale(detector, maps)
    made = {}
    with Progress(len(places), progress, label="pictures") as bar:
        for done, (i, heat) in enumerate(zip(places, maps, strict=True), 1):
            sample = given.samples[found.index[i]]
            made[i] = Shown(
                given.names[found.index[i]],
                sample.kind,
                float(found.scores[i]),
                float(found.p_values[i]),
                bool(found.flagged[i]),
                picture(detector, sample, heat, scale),
            )
            bar.update(done)
    galleries = []
    for gallery, order in chosen:
        gallery.shown = [made[int(i)] for i in order[:shown]]
        gallery.total = len(order)
        galleries.append(gallery)
    return galleries, scale


def _chosen(found: Findings) -> list[tuple[Gallery, NDArray]]:
    """The galleries, and which photographs belong into each, the first ones first."""
    order = np.argsort(-found.scores, kind="stable")
    rising = order[::-1]
    most = Gallery(
        "most", "The most anomalous", "Photographs with the highest scores come first."
    )
    if found.defective is None:
        below = Gallery(
            "below",
            "Just below the threshold",
            "Not flagged; the highest scores come first.",
        )
        flagged = order[found.flagged[order]]
        passed = order[~found.flagged[order]]
        return [(most, flagged), (below, passed)] if len(flagged) else [(most, order)]
    missed = Gallery(
        "missed",
        "Missed defects",
        "Defective and not flagged; those that look most normal come first.",
    )
    false = Gallery(
        "false",
        "False alarms",
        "Good and flagged; the highest scores come first.",
    )
    return [
        (most, order),
        (missed, rising[(found.defective & ~found.flagged)[rising]]),
        (false, order[(~found.defective & found.flagged)[order]]),
    ]


# ------------------------------------------------------------------------ words


def _promise(detector: EnergyDetector) -> str:
    """What the threshold promises with so many calibration images."""
    count, rate = len(detector.calibration_scores_), detector.false_alarm_rate
    needed = math.ceil(1 / exact_rate(rate)) - 1
    start = (
        f"The threshold {number(detector.threshold_)} was set on {count} good "
        "photographs that training never saw"
    )
    if count >= needed:
        return (
            f"{start}: at most {100 * rate:g} % of further good photographs are "
            "flagged, on average, if they were taken in the same way."
        )
    return (
        f"{start}. That is too few for a false-alarm rate of {100 * rate:g} %, which "
        f"takes {needed}: expect about {100 / (count + 1):.0f} %."
    )


def _settings(
    detector: EnergyDetector, file: Path | None
) -> dict[str, list[tuple[str, Any]]]:
    view = detector.pipeline_.view
    _, height, width = view.image_shape_
    looks: list[tuple[str, Any]] = [
        ("photographs are resized to, px", (height, width)),
        ("the energy sees, px", view.size_),
        ("tiles of an image", view.tiles_),
        ("position carries information", view.aligned_),
        ("parts are moved into place by", _kind(view.frame_)),
        ("exposure is normalized by", _kind(view.exposure_)),
    ]
    thresholds = [
        ("image threshold", detector.threshold_),
        ("pixel threshold", detector.pixel_threshold_),
        ("false-alarm rate asked for", detector.false_alarm_rate),
        ("calibration photographs", len(detector.calibration_scores_)),
    ]
    versions = [("Python", platform.python_version()), ("ebmlib", ebmlib.__version__)]
    for name in ("torch", "numpy", "pillow"):
        try:
            versions.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    if file is not None:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        versions += [("file of the detector", file.name), ("its SHA-256", digest[:16])]
    return {
        "Thresholds": thresholds,
        "What the detector looks at": looks,
        "Detector": list(detector.settings().items()),
        "Versions": versions,
    }


def _kind(thing: object) -> str:
    return "nothing" if thing is None else type(thing).__name__


# ------------------------------------------------------------------------ the file


def _page(story: Story) -> str:
    template = resources.files("ebmlib.report") / "template.html"
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=escape(story.title),
        generator=f"ebmlib {ebmlib.__version__}",
        script_hash=f"sha256-{digest}",
        body=page_body(story),
        script=SCRIPT,
    )


def _writable(path: str | Path) -> Path:
    """The path, if a file can be written there; nothing that was there is touched.

    Raises:
        ValueError: it names no HTML file, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a report is an .html file, got {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    trial = _beside(path)
    try:
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"{path} cannot be written ({reason}); name a file in a folder that exists"
        ) from None
    return path


def _replace(path: Path, text: str) -> None:
    """Write so that the path holds what it held before, or all of the text."""
    temporary = _beside(path)
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
