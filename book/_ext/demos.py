"""The directive ``:::{demo} name``: a live demo in HTML, its picture elsewhere.

Without JavaScript and in the PDF the book shows the picture of the demo. What stands
between the colons is for Colab and Jupyter, which know no directives: a sentence with a
link, and the picture (`block` writes it). The book passes over it. A page gets the
scripts of its demos once, and a page without demos gets none.
"""

import tomllib
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "book" / "_static" / "demos"
SHELL = ("shell.js", "plot.js")


class Demo(NamedTuple):
    """A demo's title, its scripts after the shell's, and what its picture shows."""

    title: str
    scripts: tuple[str, ...]
    alt: str


DEMOS = {
    "sculpt": Demo(
        "Sculpt an energy",
        ("langevin_math.js", "sculpt_view.js", "sculpt.js"),
        "Left: an energy with two wells and a hill, and white particles that have "
        "gathered in the wells. Right: the exact density beside the histogram of the "
        "particles, and their marginals, which agree.",
    ),
    "threshold": Demo(
        "Choose a threshold",
        (
            "threshold_math.js",
            "data/threshold_run.js",
            "threshold_view.js",
            "threshold.js",
        ),
        "Histograms of the scores of normal and defective images with a threshold "
        "line, the ROC curve and the precision-recall curve with the chosen point, "
        "and the confusion table of the test images.",
    ),
    "watch": Demo(
        "Watch it train",
        ("data/watch_runs.js", "watch.js"),
        "Two training runs side by side. Left, healthy: Langevin chains lie on the two "
        "moons of the data and the energies stay small. Right, diverging: the chains "
        "have fled to the border, and energies and gap have exploded.",
    ),
    "paint": Demo(
        "Paint a defect",
        (
            "patch_energy.js",
            "painting.js",
            "data/nut_model.js",
            "data/nut_images.js",
            "paint_network.js",
            "paint_view.js",
            "paint.js",
        ),
        "A drawn steel nut with a painted scratch beside the gradient map, which "
        "lights up under the scratch alone; the energy lies above that of every "
        "normal part and the verdict is defective.",
    ),
}


def styles(name: str) -> list[str]:
    """The style sheets of a demo."""
    own = [f"{name}.css"] if (FOLDER / f"{name}.css").exists() else []
    return ["shell.css", *own]


class DemoNode(nodes.General, nodes.Element):
    """The place of a demo; its children are shown where it cannot run."""


def block(name: str) -> str:
    """The directive as it stands in a notebook, readable in Colab too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    repository = project["project"]["urls"]["Repository"]
    demo = DEMOS[name]
    return (
        f":::{{demo}} {name}\n"
        f"**{demo.title}**: this demo runs in the "
        f"[HTML book]({repository}#two-commands). Here is its picture.\n\n"
        f"![{demo.alt}]({repository}/raw/main/book/_static/demos/{name}.png)\n"
        ":::"
    )


class DemoDirective(SphinxDirective):
    """``{demo}``: one argument, the demo's name."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """The demo's place, around a sentence and a picture that may stand for it."""
        name = self.arguments[0]
        if name not in DEMOS:
            raise self.error(f"unknown demo {name!r}; there are {', '.join(DEMOS)}")
        title, _, alt = DEMOS[name]
        said = f"{title}: live in the HTML book, with JavaScript. Here is its picture."
        image = nodes.image(uri=f"/book/_static/demos/{name}.png", alt=alt)
        place = DemoNode("", nodes.paragraph(said, said), image, name=name)
        self.set_source_info(place)
        return [place]


def open_html(self, node: DemoNode) -> None:
    """The element that the demo's script fills."""
    name = node["name"]
    self.body.append(f'<div class="ebm-demo" data-demo="{name}">\n<noscript>\n')


def close_html(self, _node: DemoNode) -> None:
    """After what stands for the demo."""
    self.body.append("</noscript>\n</div>\n")


def only_children(_translator, _node: DemoNode) -> None:
    """Elsewhere the picture stands for the demo."""


def add_scripts(app, _page, _template, _context, doctree) -> None:
    """Load what the demos of this page need, in order, after the page itself."""
    if doctree is None:
        return
    names = dict.fromkeys(node["name"] for node in doctree.findall(DemoNode))
    sheets = [sheet for name in names for sheet in styles(name)]
    scripts = [*SHELL, *(s for name in names for s in DEMOS[name].scripts)]
    for sheet in dict.fromkeys(sheets):
        app.add_css_file(f"demos/{sheet}")
    for script in dict.fromkeys(scripts) if names else ():
        app.add_js_file(f"demos/{script}", defer="defer")


def setup(app) -> dict:
    """Register with Sphinx."""
    elsewhere = (only_children, only_children)
    app.add_node(
        DemoNode,
        html=(open_html, close_html),
        latex=elsewhere,
        text=elsewhere,
        man=elsewhere,
        texinfo=elsewhere,
    )
    app.add_directive("demo", DemoDirective)
    app.connect("html-page-context", add_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
