"""Write the places of demos in chapters: ``python tools/demo_cells.py FILE...``.

A directive ``:::{demo} NAME``, or a comment ``<!-- demo: NAME -->`` where one is to be,
gets the text that book/_ext/demos.py has for it, which reads well in Colab too.
"""

import importlib.util
import re
import sys
from functools import cache
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"<!-- demo: (\w+) -->|^:::\{demo\} (\w+)\n.*?^:::$", re.M | re.S)


@cache
def extension():
    """The module book/_ext/demos.py, which is not in a package."""
    path = ROOT / "book" / "_ext" / "demos.py"
    spec = importlib.util.spec_from_file_location("demos", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def renewed(text: str) -> str:
    """A cell's text with the directives of its demos as they should be."""
    block = extension().block
    return PLACE.sub(lambda found: block(found[1] or found[2]), text)


def write_into(path: Path) -> None:
    """Renew the demos of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = renewed(cell.source)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_into(Path(name))
