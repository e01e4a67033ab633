"""The words and tables of a report, as HTML around charts and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebmlib.report.charts import curve_chart, number, scores_chart
from ebmlib.report.findings import LIMIT, Findings, Measure, Share
from ebmlib.report.photographs import GOOD
from ebmlib.report.pictures import Picture, Scale, color_bar

SPACE = "\N{NO-BREAK SPACE}"
Cell = str | tuple[str, str]
MOST_KINDS = 24  # with more, the chart of scores tells good from defective alone
MOST_LISTED = 500  # photographs in the list of all scores
NAMES = {"auroc": "AUROC", "ap": "Average precision", "au_pro": f"AU-PRO to {LIMIT:g}"}
MEANINGS = (
    ("AUROC", "the chance that a defective photograph scores above a good one"),
    ("Average precision", "the area under the curve of precision over recall"),
    (
        "AU-PRO",
        "the mean share of each marked defect that the map finds, averaged over false "
        f"positive rates of pixels up to {LIMIT:g}",
    ),
)


@dataclass
class Shown:
    """One photograph in a gallery."""

    name: str
    kind: str
    score: float
    p_value: float
    flagged: bool
    picture: Picture

    @property
    def verdict(self) -> tuple[str, str]:
        """The verdict in words, and its style: "bad" for what is wrong, or unusual."""
        if not self.kind:
            return ("flagged", "bad") if self.flagged else ("not flagged", "ok")
        if self.kind == GOOD:
            return ("false alarm", "bad") if self.flagged else ("good, passed", "ok")
        if self.flagged:
            return f"{self.kind}, flagged", "ok"
        return f"{self.kind}, missed", "bad"


@dataclass
class Gallery:
    """Photographs that belong together, with the words above them."""

    key: str
    title: str
    words: str
    shown: list[Shown] = field(default_factory=list)
    total: int = 0


@dataclass
class Story:
    """What a page tells.

    Attributes:
        title: of the page.
        made: date and program.
        threshold: scores above it are anomalous.
        promise: what the threshold promises, in words.
        findings: the numbers.
        names: of all photographs, by their number among those given.
        labels: of the kinds of all photographs.
        galleries: what is shown.
        scale: of the maps' colors; None without pictures.
        has_masks: whether defects are marked.
        settings: tables of settings by title, each a list of names and values.
        trained: whether good images were given for the baselines.
    """

    title: str
    made: str
    threshold: float
    promise: str
    findings: Findings
    names: list[str]
    labels: list[str]
    galleries: list[Gallery]
    scale: Scale | None
    has_masks: bool
    settings: dict[str, list[tuple[str, Any]]]
    trained: bool


def page_body(story: Story) -> str:
    """Everything between the tags of `<body>`."""
    sections = [
        ("scores", "Scores", _scores(story)),
        ("kinds", "What was found", _kinds(story)),
        ("curves", "Curves", _curves(story)),
        ("comparison", "Comparison with trivial baselines", _comparison(story)),
        ("pictures", "Photographs", _galleries(story)),
        ("list", "All scores", _list(story)),
        ("settings", "Settings and versions", _settings(story)),
    ]
    told = [(key, title, text) for key, title, text in sections if text]
    links = "".join(
        f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title, _ in told
    )
    parts = [
        '<a class="skip" href="#scores">Skip to the scores</a>',
        f"<header><h1>{escape(story.title)}</h1>",
        f'<p class="made">{escape(story.made)}</p>',
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>',
        f"<main>{_summary(story)}",
    ]
    parts += [
        f'<section aria-labelledby="{key}"><h2 id="{key}">{escape(title)}</h2>'
        f"{text}</section>"
        for key, title, text in told
    ]
    return "\n".join([*parts, "</main>"])


# ------------------------------------------------------------------------ sections


def _summary(story: Story) -> str:
    found = story.findings
    cards = []
    if found.found is None or found.false_alarms is None:
        flagged = Share(int(found.flagged.sum()), len(found.flagged))
        cards.append(("Photographs", f"{len(found.scores):,}", "without labels"))
        cards.append(("Flagged as anomalous", _of(flagged), percent(flagged.value)))
    else:
        if found.found.total:
            cards.append(_card("Defective, flagged", found.found))
        if found.false_alarms.total:
            cards.append(_card("Good, falsely flagged", found.false_alarms))
        if found.rows and "auroc" in found.rows[0].measures:
            one = found.rows[0].measures["auroc"]
            below = _measure_interval(one)
            if one.value == 1:
                below = "no good one scores as high as a defective one"
            cards.append(("AUROC", f"{one.value:.3f}", below))
        if found.rows and "au_pro" in found.rows[0].measures:
            one = found.rows[0].measures["au_pro"]
            cards.append(("AU-PRO", f"{one.value:.3f}", _measure_interval(one)))
    if found.skipped:
        cards.append(("Not read", f"{len(found.skipped):,}", "see the end of the page"))
    figures = "".join(
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b>"
        f"<span>{escape(below)}</span></dd></div>"
        for name, value, below in cards
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    notes = f'<aside class="notes" aria-label="Notes"><ul>{notes}</ul></aside>'
    return f'<dl class="cards">{figures}</dl>{notes if found.notes else ""}'


def _scores(story: Story) -> str:
    found = story.findings
    rows = [
        (f"{kind.name or 'all photographs'}: {_of(kind.flagged)} flagged", kind)
        for kind in found.kinds
    ]
    charted: list[tuple[str, NDArray, bool]] = [
        (label, kind.scores, kind.name != GOOD and found.defective is not None)
        for label, kind in rows
    ]
    if len(charted) > MOST_KINDS and found.defective is not None:
        charted = [
            (f"{word}: {len(found.scores[which])}", found.scores[which], defective)
            for word, which, defective in (
                (GOOD, ~found.defective, False),
                ("defective", found.defective, True),
            )
            if which.any()
        ]
    charts = "".join(
        scores_chart(charted, story.threshold, width, style)
        for width, style in ((1000, "wide"), (620, "medium"), (340, "narrow"))
    )
    return (
        "<p>Every photograph has one score, higher for more anomalous. It is flagged "
        f"if its score is above the threshold. {escape(story.promise)}</p>"
        f"<figure>{charts}</figure>"
    )


def _kinds(story: Story) -> str:
    found = story.findings
    if found.defective is None:
        return ""
    located = any(kind.located is not None for kind in found.kinds)
    head = ["Kind", "Flagged", *(["Located"] if located else []), "Median score"]
    rows: list[list[Cell]] = []
    for kind in found.kinds:
        row: list[Cell] = [kind.name, _share_cell(kind.flagged)]
        row += [_share_cell(kind.located)] if located else []
        rows.append([*row, number(float(np.median(kind.scores)))])
    if found.found is not None and len(found.kinds) > 2 and found.found.total:
        row = ["all defective", _share_cell(found.found)]
        if located:
            shares = [k.located for k in found.kinds if k.located is not None]
            sums = (sum(s.count for s in shares), sum(s.total for s in shares))
            row.append(_share_cell(Share(*sums)))
        middle = float(np.median(found.scores[found.defective]))
        rows.append([*row, number(middle)])
    where = (
        " A defect is located if a pixel inside its mask is flagged."
        if located
        else " No defect is marked, so where it was found is not counted."
    )
    return (
        f"<p>Of good photographs none should be flagged, of the others all.{where} In "
        "brackets stand exact 95 % intervals (Clopper and Pearson) of the share among "
        "many more such photographs.</p>"
        + table("What was flagged, of every kind of photograph", head, rows)
    )


def _curves(story: Story) -> str:
    found = story.findings
    if not found.curves:
        return ""
    charts = []
    measures = found.rows[0].measures if found.rows else {}
    if "roc" in found.curves and found.found and found.false_alarms:
        alarms, recall = found.false_alarms.value, found.found.value
        share = found.found.total / len(found.scores)
        flagged = found.found.count + found.false_alarms.count
        precision = found.found.count / flagged if flagged else math.nan
        told = f"{_told('AUROC', measures['auroc'])}. At the threshold: "
        told += f"{percent(recall)} found, {percent(alarms)} false alarms."
        chart = curve_chart(
            "ROC curve",
            found.curves["roc"],
            ("good photographs flagged", "defective flagged"),
            chance=(0, 1),
            point=(alarms, recall),
            told=told,
        )
        charts.append(("ROC", _told("AUROC", measures["auroc"]), chart))
        told = f"{_told('Average precision', measures['ap'])}. At the threshold: "
        told += f"precision {percent(precision)} at recall {percent(recall)}."
        chart = curve_chart(
            "Precision over recall",
            found.curves["pr"],
            ("recall: defective flagged", "precision: flagged defective"),
            chance=(share, share),
            point=(recall, precision) if flagged else None,
            told=told,
        )
        text = _told("average precision", measures["ap"])
        charts.append(("Precision and recall", text, chart))
    if "pro" in found.curves:
        text = _told("AU-PRO", measures["au_pro"])
        chart = curve_chart(
            "PRO curve",
            found.curves["pro"],
            ("normal pixels above the limit", "mean share of each defect"),
            right=LIMIT,
            chance=(0, LIMIT),
            told=text,
        )
        charts.append(("Pixels: per-region overlap", text, chart))
    figures = "".join(
        f"<figure><figcaption><h3>{escape(name)}</h3><p>{escape(text)}</p>"
        f"</figcaption>{chart}</figure>"
        for name, text, chart in charts
    )
    return (
        "<p>Other thresholds give other points of these curves. The dot is the "
        "threshold in use; the dashed line is what guessing gives.</p>"
        f'<div class="curves">{figures}</div>'
    )


def _comparison(story: Story) -> str:
    rows = story.findings.rows
    if not rows:
        return ""
    measured = [name for name in NAMES if name in rows[0].measures]
    body: list[list[Cell]] = []
    for row in rows:
        cells: list[Cell] = [row.label]
        for name in measured:
            one = row.measures.get(name)
            cells.append(
                "" if one is None else (f"{one.value:.3f}", _measure_interval(one))
            )
        body.append(cells)
    words = (
        "<p>Rules that need no learned model, with the same photographs. A detector "
        "that does not beat them has learned nothing that these do not know. Mean "
        "brightness should be near 0.5: far above or far below, brightness alone tells "
        "the classes apart.</p>"
        if story.trained
        else "<p>Not computed, as no good images were given to learn them from: pass "
        "them as <code>good</code>, or <code>--good FOLDER</code> on the command "
        "line.</p>"
    )
    listed = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(what)}</dd></div>"
        for name, what in MEANINGS
        if any(NAMES[key].startswith(name) for key in measured)
    )
    names = ["Method", *(NAMES[name] for name in measured)]
    note = (
        "<p>In small print: 95 % bootstrap intervals over photographs.</p>"
        if any(one.interval for one in rows[0].measures.values())
        else ""
    )
    terms = f'<dl class="terms">{listed}</dl>'
    return words + table("Measures of each method", names, body) + note + terms


def _galleries(story: Story) -> str:
    if story.scale is None:
        return ""
    some = [gallery for gallery in story.galleries if gallery.total]
    empty = [gallery for gallery in story.galleries if not gallery.total]
    stops = ", ".join(color_bar())
    scale = story.scale
    marks = (
        '<span><i class="key marked"></i>marked defect</span>'
        if story.has_masks
        else ""
    )
    bar = (
        '<div class="legend"><div class="scale"><div class="colors" role="img" '
        'aria-label="Colors of the maps, from dark for usual values to bright" '
        f'style="background:linear-gradient(to right, {stops})"></div>'
        f'<div class="ends"><span>{_rounded(scale.low, scale)}</span>'
        f"<span>pixel threshold {number(scale.limit)}</span>"
        f"<span>{_rounded(scale.high, scale)} and more</span></div></div>"
        f'<div class="keys"><span><i class="key flagged"></i>flagged pixels</span>'
        f"{marks}</div></div>"
    )
    links = "".join(
        f'<li><a href="#{gallery.key}">{escape(gallery.title)}: {gallery.total:,}</a>'
        "</li>"
        for gallery in some
        if gallery.key != "most"
    )
    parts = [
        "<p>Each picture is the photograph, covered by its map as far as the slider is "
        "moved. All maps have one color scale. Arrow keys move a slider.</p>",
        f'<ul class="jump">{links}</ul>' if links else "",
        bar,
        '<div class="controls"><label><input type="range" id="all" min="0" max="100" '
        'value="50">All maps at once</label><label><input type="checkbox" '
        'id="outlines" checked>Outlines</label></div>',
    ]
    for gallery in some:
        shown = "".join(_figure(one) for one in gallery.shown)
        more = ""
        if gallery.total > len(gallery.shown):
            more = f" Shown are {len(gallery.shown)} of {gallery.total:,}."
        parts.append(
            f'<div class="gallery"><h3 id="{gallery.key}">{escape(gallery.title)}</h3>'
            f"<p>{escape(gallery.words + more)}</p>"
            f'<div class="grid">{shown}</div></div>'
        )
    parts += [
        f'<div class="gallery"><h3>{escape(gallery.title)}</h3><p>None.</p></div>'
        for gallery in empty
    ]
    return "".join(parts)


def _rounded(value: float, scale: Scale) -> str:
    """A value to a hundredth of the scale."""
    digits = 2 - math.floor(math.log10(scale.high - scale.low))
    return number(round(value, digits) + 0.0)


def _figure(one: Shown) -> str:
    seen, name = one.picture, escape(one.name, quote=True)
    height, width = seen.size
    peak, down, right = seen.peak
    told = (
        f"Anomaly map of {one.name}: largest value {number(peak)} at "
        f"{percent(right)} of the width and {percent(down)} of the height; "
        f"{percent(seen.area, 1)} of the pixels are flagged."
    )
    lines = "".join(
        f'<path class="under" d="{path}"/><path class="{style}" d="{path}"/>'
        for path, style in ((seen.flagged, "flagged"), (seen.marked, "marked"))
        if path
    )
    verdict, style = one.verdict
    return (
        f'<figure class="shot"><div class="stack" '
        f'style="aspect-ratio:{width}/{height}">'
        f'<img src="{seen.photo}" alt="Photograph {name}" '
        f'width="{width}" height="{height}">'
        f'<img class="heat" src="{seen.heat}" alt="{escape(told, quote=True)}" '
        f'width="{width}" height="{height}">'
        f'<svg class="outlines" viewBox="0 0 {width} {height}" aria-hidden="true" '
        f'preserveAspectRatio="none">{lines}</svg></div>'
        f'<input type="range" min="0" max="100" value="50" '
        f'aria-label="Share of the map over the photograph {name}">'
        f'<figcaption><b>{name}</b><span class="{style}">{escape(verdict)}</span>'
        f"<span>score {number(one.score)}, "
        f"p = {one.p_value:.2g}</span></figcaption></figure>"
    )


def _list(story: Story) -> str:
    found = story.findings
    order = np.argsort(-found.scores, kind="stable")[:MOST_LISTED]
    labeled = found.defective is not None
    head = ["Photograph", *(["Kind"] if labeled else []), "Score", "p", "Verdict"]
    rows = []
    for i in order:
        number_ = found.index[i]
        row = [story.names[number_]]
        row += [story.labels[number_]] if labeled else []
        row += [number(float(found.scores[i])), f"{found.p_values[i]:.2g}"]
        rows.append([*row, "flagged" if found.flagged[i] else "not flagged"])
    count = f"{len(found.scores):,} photographs"
    shown = f"all {count}"
    if len(order) < len(found.scores):
        shown = f"the {len(order):,} highest of {count}"
    text = (
        f"<details><summary>Scores of {shown}, the highest first</summary>"
        "<p>p is the share of good photographs that would score "
        "so high or higher, as far as the held-out ones tell.</p>"
        f"{table('Scores, highest first', head, rows)}</details>"
    )
    if found.skipped:
        rows = [[name, why] for name, why in found.skipped[:MOST_LISTED]]
        text += f"<h3>Not read: {len(found.skipped):,}</h3>" + table(
            "Files that could not be read", ["File", "Problem"], rows, "words"
        )
    return text


def _settings(story: Story) -> str:
    parts = []
    for title, pairs in story.settings.items():
        rows = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(_value(value))}</dd></div>"
            for name, value in pairs
        )
        parts.append(f'<h3>{escape(title)}</h3><dl class="settings">{rows}</dl>')
    return "".join(parts)


# ------------------------------------------------------------------------ details


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]], style: str = ""
) -> str:
    """A table whose first column names the rows; it scrolls where it is too wide.

    A cell is text, or a pair: what is below stands smaller in the second line.
    """
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{_cell(row[0])}</th>'
        + "".join(f'<td class="{style}">{_cell(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" '
        f'aria-label="{escape(caption, quote=True)}"><table>'
        f"<caption>{escape(caption)}</caption>"
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escape(cell)
    first, second = cell
    return (
        f"{escape(first)} <small>{escape(second)}</small>" if second else escape(first)
    )


def percent(share: float, digits: int = 0) -> str:
    """A share in percent; "-" of nothing."""
    if math.isnan(share):
        return "-"
    text = f"{100 * share:.{digits}f}"
    if float(text) in (0, 100) and share not in (0, 1):  # never round to all or nothing
        text = f"{100 * share:.{digits + 1}f}"
    return f"{text}{SPACE}%"


def _of(share: Share) -> str:
    return f"{share.count:,} of {share.total:,}"


def _interval(low: float, high: float) -> str:
    return f"{100 * low:.0f} to {100 * high:.0f}{SPACE}%"


def _share_cell(share: Share | None) -> Cell:
    if share is None or not share.total:
        return ""
    below = f"{percent(share.value)} ({_interval(*share.interval)})"
    return _of(share), below


def _card(name: str, share: Share) -> tuple[str, str, str]:
    return name, _of(share), f"{percent(share.value)} ({_interval(*share.interval)})"


def _measure_interval(one: Measure) -> str:
    return "" if one.interval is None else "{:.3f} to {:.3f}".format(*one.interval)


def _told(name: str, one: Measure) -> str:
    between = _measure_interval(one)
    return f"{name} {one.value:.3f}" + (f" ({between})" if between else "")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if value is None:
        return "not set"
    if isinstance(value, (tuple, list)):
        return " x ".join(map(_value, value))
    return str(value)
