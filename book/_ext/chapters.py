"""For the status page, each chapter's words, cells, exercises, figures, times."""

import json
import re
from pathlib import Path

from tables import RESULTS, ROOT, Generated

from ebmlib.results_files import record

FENCED = re.compile(r"^```.*?^```", re.S | re.M)
FORMULA = re.compile(r"\$\$.*?\$\$( *\([\w-]+\))?|\$[^$]+\$", re.S)
MARKUP = re.compile(r"^:::.*$|^:\w[\w-]*:.*$|^\(.*\)=$|\{[\w:]+\}|\]\([^)]*\)", re.M)
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def prose(markdown: str) -> str:
    """What is left to read without code, formulas and markup."""
    for pattern in (FENCED, FORMULA, MARKUP):
        markdown = pattern.sub(" ", markdown)
    return re.sub(r"`[^`]*`", " ", markdown)


def count(path: Path) -> dict[str, int | str]:
    """Title, words, code cells, exercises and figures of one chapter."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    text = "\n\n".join(
        "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
    )
    outputs = [out for cell in code for out in cell["outputs"]]
    return {
        "title": re.search(r"^# (.+)$", text, re.M)[1],
        "words": len(WORD.findall(prose(text))),
        "cells": len(code),
        "exercises": len(re.findall(r"^:::+\{exercise\}", text, re.M)),
        "figures": sum("image/png" in out.get("data", {}) for out in outputs),
    }


def table(paths: list[Path], results: Path) -> list[str]:
    """Markdown lines: a row for every chapter, the sum, and where times come from."""
    timed = record(results, "time_chapters") or {}
    seconds = timed.get("seconds", {})
    keys = ("words", "cells", "exercises", "figures")
    lines = ["| | chapter | words | code cells | exercises | figures | seconds |"]
    lines += ["|--:|---|--:|--:|--:|--:|--:|"]
    counts = {path: count(path) for path in sorted(paths)}
    for path, found in counts.items():
        numbers = " | ".join(f"{found[key]:,}" for key in keys)
        spent = f"{seconds[path.stem]:.0f}" if path.stem in seconds else "–"
        title = f"[{found['title']}](/notebooks/{path.name})"
        lines += [f"| {int(path.name[:2])} | {title} | {numbers} | {spent} |"]
    sums = " | ".join(f"{sum(c[key] for c in counts.values()):,}" for key in keys)
    known = [seconds[path.stem] for path in counts if path.stem in seconds]
    lines += [f"| | all | {sums} | {sum(known):.0f} |", ""]
    if not timed:
        return [*lines, "The chapters were not timed yet."]
    hardware, versions = timed["hardware"], timed["versions"]
    return [
        *lines,
        f"Timed on {timed['date']}: {hardware['machine']}, {hardware['cores']} cores, "
        f"{hardware['threads']} threads, Python {versions['python']}, "
        f"torch {versions['torch']}; the system's load was {timed['load_at_start']} "
        "before the first.",
    ]


class Chapters(Generated):
    """``{chapters-table}``: what the chapters hold, and how long they run."""

    def lines(self) -> list[str]:
        """The Markdown lines."""
        pages = [p for p in self.env.found_docs if re.match(r"notebooks/\d", p)]
        paths = [ROOT / f"{page}.ipynb" for page in pages]
        return table(paths, RESULTS)


def setup(app) -> dict:
    """Register with Sphinx."""
    app.add_directive("chapters-table", Chapters)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
