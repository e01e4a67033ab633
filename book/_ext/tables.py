"""What this book adds to Sphinx: vendored browser libraries, tables of results."""

import tomllib
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from ebmbook.results import (
    ablation_table,
    choice_table,
    curve_table,
    gains_table,
    read_results,
    results_table,
    tried_table,
)

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
SHOWN = ["torch", "numpy", "scipy", "scikit-learn", "matplotlib", "pillow",
         "safetensors", "torchvision", "jupyter-book", "nbval", "pytest"]  # fmt: skip


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
    """Markdown lines: how many runs there are, and of which day the newest is."""
    newest = max((run["date"] for run in runs if "date" in run), default="")
    newest = newest and f"; the newest is of {newest}"
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
        runs = read_results(RESULTS)
        return [*results_date(runs), "", *results_table(runs)]


class Gains(Generated):
    """``{gains-table}``: scores of the map against the energy, from results/."""

    def lines(self) -> list[str]:
        """The Markdown lines."""
        return gains_table(read_results(RESULTS))


class Ablation(Generated):
    """``{ablation-table}``: what each step of the map adds, from results/."""

    def lines(self) -> list[str]:
        """The Markdown lines."""
        return ablation_table(RESULTS)


class Choice(Generated):
    """``{choice-table} experts``: candidates on mock exams, from results/."""

    required_arguments = 1

    def lines(self) -> list[str]:
        """The Markdown lines."""
        return choice_table(RESULTS, self.arguments[0])


class Tried(Generated):
    """``{tried-table} experts`` or ``maps``: what mock exams say, from results/."""

    required_arguments = 1

    def lines(self) -> list[str]:
        """The Markdown lines."""
        return tried_table(RESULTS, self.arguments[0])


class Curve(Generated):
    """``{curve-table}``: figures against steps and width, from results/."""

    def lines(self) -> list[str]:
        """The Markdown lines."""
        return curve_table(RESULTS)


class Versions(Generated):
    """``{tested-versions}``: what requirements.txt pins."""

    def lines(self) -> list[str]:
        """The Markdown lines."""
        return versions_table()


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("config-inited", use_vendored, priority=400)
    app.add_directive("results-table", Results)
    app.add_directive("gains-table", Gains)
    app.add_directive("ablation-table", Ablation)
    app.add_directive("choice-table", Choice)
    app.add_directive("tried-table", Tried)
    app.add_directive("curve-table", Curve)
    app.add_directive("tested-versions", Versions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
