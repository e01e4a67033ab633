"""What this book adds to Sphinx: vendored browser libraries, results, versions."""

import json
import subprocess
import tomllib
from collections import defaultdict
from pathlib import Path
from statistics import mean

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
SHOWN = ["torch", "numpy", "scipy", "scikit-learn", "matplotlib", "pillow",
         "safetensors", "torchvision", "jupyter-book", "nbval", "pytest"]  # fmt: skip
COLUMNS = {
    "image AUROC": "image_auroc",
    "its interval": "image_auroc_interval",
    "energy alone": "energy",
    "pixel AUROC": "pixel_auroc",
    "AU-PRO": "au_pro",
}


def use_vendored(app, config) -> None:
    """Point MathJax and the widget manager at book/_static/vendor where it exists."""
    vendor = Path(app.srcdir) / "book" / "_static" / "vendor"
    if (vendor / "versions.txt").exists():
        config.mathjax_path = "vendor/mathjax/tex-mml-chtml.js"
        config.nb_ipywidgets_js = {
            "vendor/requirejs/require.js": {},
            "widget_setup.js": {},
            "vendor/html-manager/embed-amd.js": {},
        }


def read_results(folder: Path) -> list[dict]:
    """All runs in ``folder``: JSON files with a category, a method and metrics."""
    runs = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.json"))
    ]
    return [
        run
        for run in runs
        if isinstance(run, dict) and {"category", "method", "metrics"} <= run.keys()
    ]


def cell(metrics: list[dict], key: str) -> str:
    """One figure over all seeds: mean and range, or the widest interval."""
    if key == "energy":
        scores = [m.get("image_scores", {}).get("energy") for m in metrics]
        return mean_and_range([s["image_auroc"] for s in scores if s])
    found = [m[key] for m in metrics if key in m]
    if not key.endswith("_interval"):
        return mean_and_range(found)
    if not found:
        return "–"
    return f"{min(low for low, _ in found):.3f}–{max(high for _, high in found):.3f}"


def mean_and_range(values: list[float]) -> str:
    """The mean, and the smallest and largest where they differ."""
    if not values:
        return "–"
    spread = f" ({min(values):.3f}–{max(values):.3f})"
    return f"{mean(values):.3f}" + (spread if min(values) < max(values) else "")


def row(method: str, runs: list[dict]) -> str:
    """One line of the table."""
    metrics = [run["metrics"] for run in runs]
    figures = " | ".join(cell(metrics, key) for key in COLUMNS.values())
    seconds = [run["seconds"]["fit"] for run in runs if "seconds" in run]
    time = f"{mean(seconds):.0f}" if seconds else "–"
    return f"| {method.replace('_', ' ')} | {len(runs)} | {figures} | {time} |"


def results_table(runs: list[dict]) -> list[str]:
    """Markdown lines: one table per category, one row per method."""
    if not runs:
        return ["There are no results yet: the folder `results/` is empty."]
    groups = defaultdict(lambda: defaultdict(list))
    for run in runs:
        title = f"{run['category']}, {run.get('image_size', '?')} px"
        groups[title][run["method"]].append(run)
    lines = []
    for title, methods in sorted(groups.items()):
        lines += [f"**{title}**", ""]
        lines += [f"| method | seeds | {' | '.join(COLUMNS)} | fit, s |"]
        lines += ["|---|--:|" + "--:|" * (len(COLUMNS) + 1)]
        lines += [row(method, found) for method, found in sorted(methods.items())]
        lines += [""]
    machines = {describe(run["hardware"]) for run in runs if "hardware" in run}
    return [*lines, f"Measured on {'; '.join(sorted(machines))}." if machines else ""]


def describe(hardware: dict) -> str:
    """A machine in words."""
    gpu = hardware.get("gpu") or "no GPU"
    cores, threads = hardware.get("cores", "?"), hardware.get("threads", "?")
    return f"{hardware.get('machine', '?')}, {cores} cores, {threads} threads, {gpu}"


def versions_table() -> list[str]:
    """Markdown lines: the main pinned packages and the library's own version."""
    pins = dict(
        line.split("==")
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if "==" in line
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = ["| package | version |", "|---|---|"]
    lines += [f"| Python | {project['requires-python'].replace('>=', '')} or newer |"]
    return lines + [f"| {name} | {pins[name]} |" for name in SHOWN if name in pins]


def results_date(runs: list[dict]) -> list[str]:
    """Markdown lines: how many runs there are, and when the newest was committed."""
    command = ["git", "log", "-1", "--format=%cs", "--", "results"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        date = done.stdout.strip()
    except OSError:  # a copy of the book without git
        date = ""
    newest = f"; the newest was committed on {date}" if date else ""
    return [f"The tables below sum up {len(runs)} runs{newest}."]


class Generated(SphinxDirective):
    """A directive whose content is Markdown that a function writes at build time."""

    def lines(self) -> list[str]:
        """The Markdown lines."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the lines in place; read the page again in every build."""
        self.env.note_reread()
        container = nodes.container()
        self.state.nested_parse(StringList(self.lines(), source=""), 0, container)
        return container.children


class Results(Generated):
    """``{results-table}``: the runs in results/."""

    def lines(self) -> list[str]:
        """The Markdown lines."""
        runs = read_results(ROOT / "results")
        return [*results_date(runs), "", *results_table(runs)]


class Versions(Generated):
    """``{tested-versions}``: what requirements.txt pins."""

    def lines(self) -> list[str]:
        """The Markdown lines."""
        return versions_table()


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("config-inited", use_vendored, priority=400)
    app.add_directive("results-table", Results)
    app.add_directive("tested-versions", Versions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
