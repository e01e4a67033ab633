"""Chapter 10 quotes results of real images; they must be those of results/."""

import re
from pathlib import Path

import nbformat
import pytest

from ebmlib.results_files import read_runs, record

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = ROOT / "notebooks" / "10_scores_from_the_gradient_map.ipynb"
MARK = "<!-- quoted results -->"
STALE = "run python tools/quote_results.py"


def text() -> str:
    cells = nbformat.read(CHAPTER, as_version=4).cells
    (found,) = [c.source for c in cells if c.source.startswith(MARK)]
    return found


def table() -> dict[tuple[str, int], list[float]]:
    """(category, seed) -> the numbers of its row."""
    rows = [line.strip("| ").split(" | ") for line in text().splitlines()]
    rows = [row for row in rows if len(row) == 7 and row[1].isdigit()]
    return {(row[0], int(row[1])): [float(x) for x in row[2:]] for row in rows}


def committed() -> dict[tuple[str, int], dict]:
    """The runs with Langevin chains."""
    return {
        (run["category"].removeprefix("mvtec/"), run["seed"]): run
        for run in read_runs(ROOT / "results").values()
        if run["category"] in ("mvtec/bottle", "mvtec/screw")
        and (run["method"], run["image_size"]) == ("contrastive_divergence", 128)
    }


def untrained() -> dict[tuple[str, int], dict]:
    """The same networks without training."""
    rows = record(ROOT / "results", "untrained_map")["rows"]
    return {(r["category"].removeprefix("mvtec/"), r["seed"]): r for r in rows}


def test_every_committed_run_has_a_row_and_every_row_a_run():
    assert table().keys() == committed().keys() == untrained().keys(), STALE
    assert table()


def test_the_figures_are_those_of_the_files():
    runs, controls = committed(), untrained()
    for key, row in table().items():
        metrics, control = runs[key]["metrics"], controls[key]
        scores = metrics["image_scores"]
        exact = [scores[s]["image_auroc"] for s in ("energy", "max")]
        exact += [control["max"], metrics["au_pro"], control["au_pro"]]
        assert row == pytest.approx(exact, abs=5.1e-4), (key, STALE)


def test_the_runs_are_those_that_the_text_describes():
    for key, run in committed().items():
        settings = {k: run["settings"][k] for k in ("map", "standardize", "score")}
        assert settings == {
            "map": "gradient",
            "standardize": "position",
            "score": "max",
        }, key


def test_the_sentences_follow_from_the_table():
    said = re.findall(
        r"On \*(\w+)\* the maximum of the map lies above the energy in (\d+) of "
        r"(\d+) runs, by ([+-][\d.]+) on average; without training the maximum "
        r"reaches (0\.\d+)\.",
        text(),
    )
    assert {name for name, *_ in said} == {name for name, _ in table()}
    for name, above, count, mean, without in said:
        rows = [row for (category, _), row in table().items() if category == name]
        gains = [row[1] - row[0] for row in rows]
        assert int(above) == sum(gain > 0 for gain in gains), STALE
        assert int(count) == len(gains), STALE
        assert float(mean) == pytest.approx(sum(gains) / len(gains), abs=1.1e-3)
        reached = sum(row[2] for row in rows) / len(rows)
        assert float(without) == pytest.approx(reached, abs=1.1e-3), STALE
