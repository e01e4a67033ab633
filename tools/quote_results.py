"""Write tables of results/ into chapters 7 and 10: ``python tools/quote_results.py``.

The reader of one notebook has no results/, so these chapters quote a few of its
numbers. Run this after the benchmarks; tests/book/test_results_quoted_07.py and
tests/book/test_results_quoted_10.py compare both.
"""

from pathlib import Path

import nbformat

from ebmbook.results import read_results
from ebmlib.results_files import record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
CATEGORIES = ("mvtec/bottle", "mvtec/screw")
METHOD = "contrast"
SCORES = ("energy", "max", "top", "l2")
LONGER = ("gradient_au_pro", "gradient_max", "energy", "chain_drift_to_noise")
MARK = "<!-- quoted results -->"


def runs(category: str) -> list[tuple[int, dict[str, float]]]:
    """(seed, image AUROC by score) of the committed runs of a category."""
    found = []
    for run in read_results(RESULTS):
        if (run["category"], run["method"], run["image_size"]) != (
            category,
            METHOD,
            128,
        ):
            continue
        scores = run["metrics"]["image_scores"]
        found.append((run["seed"], {s: scores[s]["image_auroc"] for s in SCORES}))
    return found


def longer_runs() -> str:
    """Chapter 7: energy and gradient map of its run, and of a longer one."""
    made = record(RESULTS, "longer_run")
    if made is None:
        raise SystemExit("no record: run python benchmarks/longer_run.py first")
    lines = [
        "| updates | seeds | AU-PRO, map | AUROC, largest map value | AUROC, energy "
        "| drift to noise |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for steps in sorted({row["steps"] for row in made["rows"]}):
        rows = [row for row in made["rows"] if row["steps"] == steps]
        cells = [str(len(rows))]
        for key in LONGER:
            values = [row[key] for row in rows]
            cell = f"{sum(values) / len(values):.2f}"
            if len(values) > 1:
                cell += f" ({min(values):.2f}–{max(values):.2f})"
            cells.append(cell)
        lines.append(f"| {steps} | {' | '.join(cells)} |")
    return "\n".join([MARK, "", *lines])


def map_against_energy() -> str:
    """Chapter 10: a table, and one sentence per category."""
    lines = [
        "| category | seed | energy | max | top | l2 | max minus energy |",
        "|---|---|---|---|---|---|---|",
    ]
    sentences = []
    for category in CATEGORIES:
        name, found = category.removeprefix("mvtec/"), runs(category)
        for seed, area in found:
            values = " | ".join(f"{area[s]:.3f}" for s in SCORES)
            gain = area["max"] - area["energy"]
            lines.append(f"| {name} | {seed} | {values} | {gain:+.3f} |")
        if found:
            gains = [area["max"] - area["energy"] for _, area in found]
            above = sum(gain > 0 for gain in gains)
            sentences.append(
                f"On *{name}* the maximum lies above the energy in {above} of "
                f"{len(gains)} runs; the mean difference is "
                f"{sum(gains) / len(gains):+.3f}."
            )
    return "\n".join([MARK, "", *lines, "", " ".join(sentences)])


def write_into(path: Path, text: str) -> None:
    """Replace the quoted table of a notebook; outputs stay as they are."""
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [c for c in notebook.cells if c.source.startswith(MARK)]
    cell.source = text
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name, quoted in (
        ("07_train_an_image_ebm", longer_runs),
        ("10_scores_from_the_gradient_map", map_against_energy),
    ):
        write_into(ROOT / "notebooks" / f"{name}.ipynb", quoted())
