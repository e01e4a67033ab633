"""Write the pages of the library, book/api/: ``python tools/api_pages.py``.

One page for each layer of `import_graph.LAYERS`, from the bottom up, and one for the
package of the book; a section for each file. tests/book/test_book_text.py compares them
with what this script would write.
"""

from pathlib import Path

from import_graph import BOOK, LAYERS, ROOT, modules

FOLDER = ROOT / "book" / "api"
TITLES = {
    1: ("Energies, measures, data", "What everything else stands on."),
    2: ("Sampling, losses, scores", "The ideas of the book, one file for each."),
    3: ("Training and thresholds", "A loop that cannot fail silently."),
    4: ("Views and recipes", "What an energy sees, and ways to make one."),
    5: ("The detector", "The whole method in one object."),
    6: ("Commands and benchmark", "From folders of photographs to files."),
    BOOK: ("The book's own package", "`ebmbook`: what only serves the chapters."),
}
INDEX = """\
(api)=
# The library, file by file

`ebmlib` is the code that the chapters explain. One file holds one idea and names its
chapter. Imports only go down, so that a layer can be read without those above it. The
usual way in is `from ebmlib import EnergyDetector`. These pages are made from the
docstrings of the installed version.

:::{list-table}
:header-rows: 1
:widths: 30 70

* - layer
  - files
ROWS
:::

## Four words that hold everywhere

An **energy** is any callable that takes a batch `(B, *shape)` and returns one number an
item, `(B,)`. Lower is more normal. A **sampler** is a plain function of an energy and a
starting point. A **loss** takes an energy and a batch, and returns the loss with its
health figures. A **score** is higher for what is more anomalous.

Images are float tensors `(B, C, H, W)` with values in [0, 1]. Randomness comes through
an explicit `torch.Generator`. A wrong argument raises `ValueError` with the value, what
was expected, and how to repair it.

Names that begin with an underscore, and the answers of the exercises, are left out.
"""


def listed() -> dict[int, list[str]]:
    """Layer -> its modules, in the order of the table and then of their names."""
    found: dict[int, list[str]] = {layer: [] for layer in TITLES}
    names = [name for name in modules() if "._" not in name and "." in name]
    packages = ("ebmbook.exercises.", "ebmlib.baselines.")  # they name what matters
    names = [name for name in names if not name.startswith(packages)]
    for name in names:
        package, top = name.split(".")[:2]
        layers = [layer for layer, tops in LAYERS.items() if top in tops]
        (layer,) = [BOOK] if package == "ebmbook" else layers
        found[layer].append(name)
    return found


def label(name: str) -> str:
    """The label of a file's section."""
    return "api-" + name.replace("ebmlib.", "").replace(".", "-").replace("_", "-")


def page(layer: int, names: list[str]) -> str:
    """The text of one layer's page."""
    heading, words = TITLES[layer]
    lines = [f"(api-layer-{layer})=", f"# {heading}", "", words, ""]
    for name in names:
        lines += [f"({label(name)})=", f"## `{name}`", ""]
        lines += ["```{eval-rst}", f".. automodule:: {name}", "```", ""]
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """Every page by its file."""
    found, rows = {}, []
    for layer, names in sorted(listed().items(), reverse=True):
        links = [f"[{n.split('.', 1)[1]}]({label(n)})" for n in names]
        rows += [f"* - [](layer_{layer}.md)", f"  - {', '.join(links)}"]
        found[FOLDER / f"layer_{layer}.md"] = page(layer, names)
    found[FOLDER / "index.md"] = INDEX.replace("ROWS", "\n".join(rows))
    return found


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
