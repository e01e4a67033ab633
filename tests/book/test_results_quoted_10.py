"""Chapter 10 quotes results of real images; they must be those of results/."""

import re
from pathlib import Path

import nbformat
import pytest

from ebmlib.results_files import read_runs

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
    return {
        (run["category"].removeprefix("mvtec/"), run["seed"]): run
        for run in read_runs(ROOT / "results").values()
        if run["category"] in ("mvtec/bottle", "mvtec/screw")
        and (run["method"], run["image_size"]) == ("contrast", 128)
    }


def test_every_committed_run_has_a_row_and_every_row_a_run():
    assert table().keys() == committed().keys(), STALE
    assert table()


def test_the_figures_are_those_of_the_files():
    runs = committed()
    for key, row in table().items():
        assert key in runs, STALE
        scores = runs[key]["metrics"]["image_scores"]
        exact = [scores[s]["image_auroc"] for s in ("energy", "max", "top", "l2")]
        exact.append(exact[1] - exact[0])
        assert row == pytest.approx(exact, abs=5.1e-4), (key, STALE)


def test_the_runs_are_those_that_the_text_describes():
    for key, run in committed().items():
        assert run["image_size"] == 128, key
        settings = {k: run["settings"][k] for k in ("map", "standardize", "score")}
        assert settings == {
            "map": "weighted",
            "standardize": "global",
            "score": "max",
        }, key


def test_the_sentences_follow_from_the_table():
    said = re.findall(
        r"On \*(\w+)\* the maximum lies above the energy in (\d+) of\s+(\d+) runs; "
        r"the mean difference is ([+-][\d.]+)\.",
        text(),
    )
    assert {name for name, *_ in said} == {name for name, _ in table()}
    for name, above, count, mean in said:
        gains = [row[-1] for (category, _), row in table().items() if category == name]
        assert int(above) == sum(gain > 0 for gain in gains), STALE
        assert int(count) == len(gains), STALE
        assert float(mean) == pytest.approx(sum(gains) / len(gains), abs=1.1e-3)
