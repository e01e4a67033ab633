"""Tables and figures of what `ebmlib.benchmark` wrote, nothing typed (chapters 12, 13).

    for line in results_table(read_results("results")):
        print(line)

The trivial baselines stand in every table, measured or not, and a figure that does not
beat the best of them is marked.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ebmlib import plotting
from ebmlib.baselines import BASELINES, TRIVIAL
from ebmlib.results_files import Run, read_runs, record, records

COLUMNS = {
    "image AUROC": "image_auroc",
    "its interval": "image_auroc_interval",
    "energy alone": "energy",
    "pixel AUROC": "pixel_auroc",
    "AU-PRO": "au_pro",
}
METRICS = ("image_auroc", "pixel_auroc", "au_pro")
MARK = "†"  # not above the best trivial row
SHIPPED = Path(__file__).parent / "saved" / "results.json"
SHIPPED_FEATURES = SHIPPED.with_name("feature_results.json")
FEATURE_ROWS = {  # method -> its name in `features_table`
    "fields": "product of both fields",
    "learned_features": "learned with chains",
    "anomalib_padim": "PaDiM (anomalib)",
    "anomalib_patchcore_1percent": "PatchCore, 1 % (anomalib)",
}
# Names in recorded runs of what is a recipe with this number of training steps today.
# (`thorough_contrast` was taught with the damage of `experts`.)
FORMER_NAMES = {
    "thorough_contrast": ("contrast", 8000),
    "thorough_experts": ("experts", 8000),
}

# ------------------------------------------------------------------------ reading


def read_results(folder: str | Path) -> list[Run]:
    """All runs below `folder`: JSON files with a category, a method and metrics."""
    return list(read_runs(folder).values())


def shipped_results() -> list[Run]:
    """The runs on real images that come with the package, for readers of one chapter.

    `tools/ship_results.py` writes them from the folder results/ of the repository.
    """
    return json.loads(SHIPPED.read_text(encoding="utf-8"))


def shipped_feature_results() -> list[Run]:
    """The same for energies on pretrained features, and other packages beside them."""
    return json.loads(SHIPPED_FEATURES.read_text(encoding="utf-8"))


def grouped(runs: list[Run]) -> dict[str, dict[str, list[Run]]]:
    """Title of a table (category and size) -> method -> its runs, one a seed.

    Methods come in the order of tables: trivial baselines, the others, energies.
    """
    groups: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        title = f"{run['category']}, {run.get('image_size', '?')} px"
        groups[title][row_name(run)].append(run)
    order = {name: place for place, name in enumerate(BASELINES)}
    return {
        title: dict(
            sorted(methods.items(), key=lambda item: (order.get(item[0], 99), item[0]))
        )
        for title, methods in sorted(groups.items())
    }


def row_name(run: Run) -> str:
    """The method of a run, and the features and steps asked for, if any were."""
    asked = run.get("options", {})
    parts = [run["method"]]
    if asked.get("features") is not None:
        parts.append(f"{asked['features']} features")
    if asked.get("steps") is not None:
        parts.append(f"{asked['steps']} steps")
    return ", ".join(parts)


def recipe_of(run: Run) -> tuple[str, int | None]:
    """The method of a run by today's name, and its training steps if it has any."""
    method, steps = FORMER_NAMES.get(run["method"], (run["method"], None))
    return method, run.get("settings", {}).get("steps", steps)


def label(method: str, runs: Sequence[Run] = ()) -> str:
    """The honest name of a baseline; a recipe's own name, and whose weights it had."""
    known = BASELINES.get(method)
    if known:
        return known.label
    files = {run.get("settings", {}).get("weights") for run in runs} - {None}
    named = ["random weights" if w == "random" else w for w in sorted(files)]
    name = method.replace("_", " ")
    return f"{name} ({'; '.join(named)})" if named else name


# ------------------------------------------------------------------------ tables


def results_table(runs: list[Run]) -> list[str]:
    """Markdown lines: one table per category and size, one row per method.

    A figure is the mean over seeds, with the smallest and the largest; the interval
    is the hull of the seeds' intervals. `MARK`: the mean is not above the best trivial
    row.
    """
    if not runs:
        return ["There are no results yet: the folder `results/` is empty."]
    lines = []
    for title, methods in grouped(runs).items():
        lines += [f"**{title}**", ""]
        lines += [f"| method | seeds | {' | '.join(COLUMNS)} | fit, s |"]
        lines += ["|---|--:|" + "--:|" * (len(COLUMNS) + 1)]
        bars = {key: best_trivial(methods, key) for key in COLUMNS.values()}
        lines += [
            f"| {label(name)} | – |" + " not measured |" + " – |" * len(COLUMNS)
            for name in TRIVIAL
            if name not in methods
        ]
        lines += [row(method, found, bars) for method, found in methods.items()]
        lines += [""]
    lines += [f"{MARK} not above the best trivial row of this category.", ""]
    machines = {describe(run["hardware"]) for run in runs if "hardware" in run}
    return [*lines, f"Measured on {'; '.join(sorted(machines))}." if machines else ""]


def features_table(runs: list[Run]) -> list[str]:
    """Markdown lines: a row for every method, a column for every category.

    A figure is image AUROC / pixel AUROC / AU-PRO, the mean over seeds. Below an energy
    stands what its gradient map reaches alone, scored by its maximum.
    """
    kinds = sorted({run["category"] for run in runs})
    names = " | ".join(_short_name(kind) for kind in kinds)
    lines = [f"| method | {names} |", "|---|" + "--:|" * len(kinds)]
    for method in (*TRIVIAL, *FEATURE_ROWS):
        found = [run["metrics"] for run in runs if run["method"] == method]
        name = FEATURE_ROWS.get(method, label(method))
        rows = {name: lambda metrics: metrics}
        if any("gradient" in metrics.get("maps", {}) for metrics in found):
            rows["its gradient alone"] = lambda m: m.get("maps", {}).get("gradient", {})
        for title, part in rows.items():
            cells = []
            for kind in kinds:
                mine = [
                    part(run["metrics"])
                    for run in runs
                    if (run["category"], run["method"]) == (kind, method)
                ]
                values = [values_of(mine, key) for key in METRICS]
                cells.append(" / ".join(f"{mean(v):.3f}" if v else "–" for v in values))
            if any(cell.strip("– /") for cell in cells):
                lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _short_name(category: str) -> str:
    """A category without its source: of "mvtec/mpdd_metal_plate", "metal plate"."""
    return category.rpartition("/")[2].removeprefix("mpdd_").replace("_", " ")


def row(method: str, runs: list[Run], bars: dict[str, float | None]) -> str:
    """One line of the table."""
    metrics = [run["metrics"] for run in runs]
    figures = []
    for key in COLUMNS.values():
        values, bar = values_of(metrics, key), bars[key]
        if key.endswith("_interval"):
            figures.append(hull(metrics, key))
        elif method not in TRIVIAL and values and bar is not None:
            mark = "" if mean(values) > bar else f" {MARK}"
            figures.append(mean_and_range(values) + mark)
        else:
            figures.append(mean_and_range(values))
    seconds = [run["seconds"]["fit"] for run in runs if "seconds" in run]
    time = f"{mean(seconds):.0f}" if seconds else "–"
    name = label(method, runs)
    return f"| {name} | {len(runs)} | {' | '.join(figures)} | {time} |"


def best_trivial(methods: dict[str, list[Run]], key: str) -> float | None:
    """The largest mean that a trivial baseline reaches; None where none was measured.

    The bar of the energy's own image AUROC is that of the image AUROC.
    """
    key = "image_auroc" if key == "energy" else key
    if key.endswith("_interval"):
        return None
    found = [
        mean(values)
        for name in TRIVIAL
        if (values := values_of([run["metrics"] for run in methods.get(name, [])], key))
    ]
    return max(found, default=None)


def values_of(metrics: list[dict[str, Any]], key: str) -> list[float]:
    """One figure of every seed; "energy" is the image AUROC of E(x) itself.

    A figure that could not be measured, which is null in the file, is left out.
    """
    if key == "energy":
        scores = [m.get("image_scores", {}).get("energy") for m in metrics]
        return [score["image_auroc"] for score in scores if score]
    return [m[key] for m in metrics if m.get(key) is not None]


def hull(metrics: list[dict[str, Any]], key: str) -> str:
    """From the lowest to the highest end of the seeds' intervals."""
    found = _ends(metrics, key)
    return f"{found[0]:.3f}–{found[1]:.3f}" if found else "–"


def _ends(metrics: list[dict[str, Any]], key: str) -> tuple[float, float] | None:
    intervals = [m[key] for m in metrics if m.get(key) is not None]
    if not intervals:
        return None
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def mean_and_range(values: list[float]) -> str:
    """The mean, and the smallest and largest where they differ."""
    if not values:
        return "–"
    spread = f" ({min(values):.3f}–{max(values):.3f})"
    return f"{mean(values):.3f}" + (spread if min(values) < max(values) else "")


def describe(hardware: dict[str, Any]) -> str:
    """A machine in words."""
    gpu = hardware.get("gpu") or "no GPU"
    cores, threads = hardware.get("cores", "?"), hardware.get("threads", "?")
    return f"{hardware.get('machine', '?')}, {cores} cores, {threads} threads, {gpu}"


# ------------------------------------------------------- the map against the energy


class Gain(NamedTuple):
    """Image AUROC of one score minus that of another, with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def gain(
    runs: list[Run], score: str = "score", base: str = "energy", n: int = 2000
) -> Gain:
    """AUROC(score) - AUROC(base), mean over seeds, with a paired bootstrap interval.

    An AUROC is the share of pairs (defective i, normal j) that a score puts in the
    right order, ties counting one half. So the difference is a mean over pairs too,

        gain = mean_ij d_ij,   d_ij = mean over seeds of (order_ij - order'_ij),

    and a resample of the test images, the same for all seeds and both scores, weights
    its rows and columns. The interval tells of the choice of test images; classes keep
    their sizes.

    Args:
        runs: of one category, size and method, one a seed, with the scores of images.
        score: "score" is the one that a detector stands for.
        base: the score to compare with.
        n: resamples.

    Raises:
        ValueError: no runs, or one without these scores, or of other test images.
    """
    if not runs:
        raise ValueError("gain needs at least one run")
    labels = _images(runs[0], score, base)["labels"]
    pairs = []
    for run in runs:
        images = _images(run, score, base)
        if images["labels"] != labels:
            raise ValueError("the runs differ in their test images")
        better, other = (np.asarray(images["scores"][name]) for name in (score, base))
        defective = np.asarray(labels, dtype=bool)
        pairs.append(_order(better, defective) - _order(other, defective))
    d = np.mean(pairs, axis=0)  # (defective, normal)
    rng = np.random.default_rng(0)
    rows, columns = (rng.multinomial(k, np.full(k, 1 / k), n) for k in d.shape)
    resampled = ((rows @ d) * columns).sum(1) / d.size
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Gain(float(d.mean()), float(low), float(high))


def _order(scores: NDArray, defective: NDArray) -> NDArray:
    """(defective, normal): 1 where the defective image scores higher, 1/2 for a tie."""
    difference = scores[defective][:, None] - scores[~defective][None]
    return 0.5 * (np.sign(difference) + 1)


def _images(run: Run, *names: str) -> dict[str, Any]:
    images = run.get("images", {"scores": {}})
    missing = sorted(set(names) - images["scores"].keys())
    if missing:
        raise ValueError(
            f"{run['method']} on {run['category']}, seed {run.get('seed')}: no scores "
            f"of images called {missing}; measure it again with ebmlib.benchmark"
        )
    return images


def _has_both_classes(run: Run, base: str) -> bool:
    images = run.get("images", {})
    return base in images.get("scores", {}) and len(set(images["labels"])) == 2


def gains_table(runs: list[Run], base: str = "energy") -> list[str]:
    """Markdown lines: what scores from the map gain over the energy, with intervals.

    One row per category and energy; only runs that hold the scores of their images.
    """
    rows, names = [], []
    for title, methods in grouped(runs).items():
        for method, found in methods.items():
            found = [r for r in found if _has_both_classes(r, base)]
            if not found:
                continue
            scores = [
                s for s in found[0]["images"]["scores"] if s not in ("score", base)
            ]
            names += [s for s in scores if s not in names]
            values = values_of([run["metrics"] for run in found], "energy")
            gains = {s: str(gain(found, s, base)) for s in scores}
            name = label(method, found)
            head = f"| {title} | {name} | {len(found)} | {mean_and_range(values)}"
            rows.append((head, gains))
    if not rows:
        return ["No run holds the scores of its images yet."]
    heads = [name.replace("_", " ") for name in names]
    lines = [f"| category | method | seeds | {base} | {' | '.join(heads)} |"]
    lines += ["|---|---|--:|" + "--:|" * (len(names) + 1)]
    return lines + [
        " | ".join([head, *(gains.get(name, "–") for name in names)]) + " |"
        for head, gains in rows
    ]


# ------------------------------------------------------------------- what adds what


def ablation_table(folder: str | Path) -> list[str]:
    """Markdown lines: one table per record of benchmarks/history/map_ablation.py.

    Each row changes one thing of the first one. Beside the means over seeds stand the
    differences to the first row with their 95 % intervals, in thousandths.
    """
    lines = []
    for made in records(folder, "map_ablation").values():
        lines += [f"**{made['category']}, {made['image_size']} px**", ""]
        lines += ["| map | image AUROC | difference | AU-PRO | difference |"]
        lines += ["|---|--:|--:|--:|--:|"]
        for place, row in enumerate(made["rows"]):
            cells = [row["name"]]
            for key in ("image_auroc", "au_pro"):
                value, low, high = (1000 * v for v in row[f"{key}_gain"])
                gain = f"{value:+.0f} ({low:+.0f} to {high:+.0f})" if place else ""
                cells += [f"{row[key]:.3f}", gain]
            lines += ["| " + " | ".join(cells) + " |"]
        lines += [""]
    return lines or ["No ablation was measured yet."]


def choice_table(folder: str | Path, what: str = "experts", most: int = 5) -> list[str]:
    """Markdown lines: the candidates of benchmarks/history/choose_experts.py.

    The best `most` by its rule, the standing one and, where the rule chose another,
    that one, with the mean of the three measures in every mock exam, and over all.
    `what` is "experts", or "registered" for choose_registered.py.
    """
    made = record(folder, f"choose_{what}")
    if made is None:
        return ["No choice was recorded yet."]
    exams, names = made["categories"], tuple(made["standing"])
    marks = {"standing": made["standing"]}
    if "chosen" in made:
        marks |= {"chosen by the rule": made["chosen"]}
    heads = " | ".join({"cells": "patch"}.get(name, name) for name in names)
    lines = [f"| rank | {heads} | {_short(exams)} | mean |"]
    lines += ["|--:|" + "--:|" * (len(names) + len(exams) + 1)]
    for rank, row in enumerate(made["ranking"], 1):
        candidate = {name: row[name] for name in names}
        mark = "".join(
            f" ({mark})"
            for mark, marked in marks.items()
            if candidate == {name: marked[name] for name in names}
        )
        if rank > most and not mark:
            continue
        means = []
        for exam in exams.values():
            (found,) = (
                r for r in exam["rows"] if all(r[k] == candidate[k] for k in names)
            )
            means.append(mean(found[k] for k in METRICS))
        cells = [f"{rank}{mark}", f"{row['cells']} cells"]
        cells += [f"{row[name]:g}" for name in names[1:]]
        cells += [f"{value:.3f}" for value in (*means, row["mean"])]
        lines += ["| " + " | ".join(cells) + " |"]
    return lines


def tried_table(folder: str | Path, what: str = "experts") -> list[str]:
    """Markdown lines: what benchmarks/history/try_experts.py or try_maps.py found.

    The mean of the three measures in every mock exam, and over all; what was not in an
    exam has no mean. `what` is "experts", "maps", "registration" or "share".
    """
    made = record(folder, f"try_{what}")
    if made is None:
        return [f"No other {what} were tried yet."]
    exams = made["categories"]
    lines = [f"| {what} | {_short(exams)} | mean |"]
    lines += ["|---|" + "--:|" * (len(exams) + 1)]
    marks: dict[str, dict[str, float]] = defaultdict(dict)
    for title, exam in exams.items():
        for row in exam["rows"]:
            marks[row[what]][title] = mean(row[key] for key in METRICS)
    for name, found in marks.items():
        values = [found.get(title) for title in exams]
        known = [value for value in values if value is not None]
        values.append(mean(known) if len(known) == len(values) else None)
        cells = ["–" if value is None else f"{value:.3f}" for value in values]
        lines += ["| " + " | ".join([name, *cells]) + " |"]
    return lines


def _short(titles: Iterable[str]) -> str:
    """Heads of columns that fit on a page: "mvtec/felt, 64 px" is felt, if alone."""
    parts = [title.split(",") for title in titles]
    names = [name.rpartition("/")[2] for name, *_ in parts]
    return " | ".join(
        f"{name},{''.join(size)}" if names.count(name) > 1 else name
        for name, (_, *size) in zip(names, parts, strict=True)
    )


def curve_table(folder: str | Path) -> list[str]:
    """Markdown lines: one table per record of benchmarks/history/training_curve.py."""
    lines = []
    for made in records(folder, "training_curve").values():
        title = f"{made['category']}, {made['image_size']} px, seed {made['seed']}"
        lines += [f"**{title}**", ""]
        heads = "steps | width | parameters | fit, s | energy | image AUROC"
        lines += [f"| {heads} | pixel AUROC | AU-PRO |", "|" + "--:|" * 8]
        for row in made["rows"]:
            cells = [f"{row['steps']}", f"{row['width']}", f"{row['parameters']}"]
            cells += [f"{row['seconds']:.0f}", f"{row['energy']:.3f}"]
            cells += [f"{row[key]:.3f}" for key in METRICS]
            lines += ["| " + " | ".join(cells) + " |"]
        lines += [""]
    return lines or ["No curve was measured yet."]


# ------------------------------------------------------------------------ figures


def plot_results(runs: list[Run], metric: str = "image_auroc") -> Figure:
    """One panel per category and size: every method's mean, seeds and interval.

    Small marks are seeds; the line is the hull of the seeds' intervals; a dotted line
    marks the best trivial row. Hollow marks are baselines.

    Raises:
        ValueError: no run has this metric.
    """
    groups = {
        title: {
            m: found
            for m, found in methods.items()
            if values_of([run["metrics"] for run in found], metric)
        }
        for title, methods in grouped(runs).items()
    }
    groups = {title: methods for title, methods in groups.items() if methods}
    if not groups:
        raise ValueError(f"no run has the metric {metric!r}")
    height = sum(0.8 + 0.4 * len(methods) for methods in groups.values())
    figure, axes = plotting.new_figure(len(groups), 1, size=(7.0, height))
    for ax, (title, methods) in zip(axes[:, 0], groups.items(), strict=True):
        for place, (method, found) in enumerate(methods.items()):
            metrics = [run["metrics"] for run in found]
            values = values_of(metrics, metric)
            energy = method not in BASELINES
            color = plotting.VERMILION if energy else plotting.BLUE
            face = color if energy else plotting.PAPER
            ends = _ends(metrics, f"{metric}_interval")
            if ends is not None:
                ax.plot(ends, [place, place], color=color, lw=1.5, ls="-")
            ax.plot(values, [place] * len(values), "|", color=color, ms=9)
            ax.plot(mean(values), place, "o", color=color, mfc=face, ms=7)
        bar = best_trivial(methods, metric)
        if bar is not None:
            ax.axvline(bar, color=plotting.INK, ls=":", lw=1.2)
        names = [label(*item).replace(" (", "\n(") for item in methods.items()]
        ax.set_yticks(range(len(methods)), names, fontsize=9)
        ax.set(title=title, ylim=(len(methods) - 0.5, -0.5))
    left = min(ax.get_xlim()[0] for ax in axes[:, 0])  # one scale for all panels
    for ax in axes[:, 0]:
        ax.set_xlim(left, 1.02)
    name = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC"}
    axes[-1, 0].set_xlabel(name.get(metric, "AU-PRO" if metric == "au_pro" else metric))
    return figure
