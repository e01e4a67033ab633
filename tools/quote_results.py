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
METHOD, SIZE = "contrastive_divergence", 128
LONGER = ("gradient_au_pro", "gradient_max", "energy", "chain_drift_to_noise")
MARK = "<!-- quoted results -->"


def runs(category: str) -> list[dict]:
    """The committed runs of a category that were trained with Langevin chains."""
    return [
        run
        for run in read_results(RESULTS)
        if (run["category"], run["method"], run["image_size"])
        == (category, METHOD, SIZE)
    ]


def controls(category: str) -> dict[int, dict]:
    """The same networks without training, by seed."""
    made = record(RESULTS, "untrained_map")
    if made is None:
        raise SystemExit("no record: run python benchmarks/untrained_map.py first")
    return {row["seed"]: row for row in made["rows"] if row["category"] == category}


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
    """Chapter 10: the map beside the energy and beside the map without training."""
    lines = [
        "| category | seed | energy | map | map, untrained | AU-PRO "
        "| AU-PRO, untrained |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    sentences = []
    for category in CATEGORIES:
        name, control = category.removeprefix("mvtec/"), controls(category)
        gains, without = [], []
        for run in runs(category):
            metrics, plain = run["metrics"], control[run["seed"]]
            scores = metrics["image_scores"]
            energy, top = (scores[s]["image_auroc"] for s in ("energy", "max"))
            values = energy, top, plain["max"], metrics["au_pro"], plain["au_pro"]
            cells = " | ".join(f"{value:.3f}" for value in values)
            lines.append(f"| {name} | {run['seed']} | {cells} |")
            gains.append(top - energy)
            without.append(plain["max"])
        if gains:
            above = sum(gain > 0 for gain in gains)
            sentences.append(
                f"On *{name}* the maximum of the map lies above the energy in {above} "
                f"of {len(gains)} runs, by {sum(gains) / len(gains):+.3f} on average; "
                "without training the maximum reaches "
                f"{sum(without) / len(without):.3f}."
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
