"""Chapter 7 quotes longer runs of its training; they must be those of results/."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from ebmbook.saved import load_saved
from ebmlib.results_files import record

ROOT = Path(__file__).resolve().parents[2]
CELLS = nbformat.read(ROOT / "notebooks" / "07_train_an_image_ebm.ipynb", 4).cells
MADE = record(ROOT / "results", "longer_run")["rows"]
STALE = "run python tools/quote_results.py"
FIGURES = ("gradient_au_pro", "gradient_max", "energy", "chain_drift_to_noise")


def test_the_table_is_that_of_the_file():
    (text,) = [c.source for c in CELLS if c.source.startswith("<!-- quoted results")]
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (.*) \|$", text, flags=re.M)
    lengths = sorted({row["steps"] for row in MADE})
    assert [int(steps) for steps, *_ in rows] == lengths == [200, 2000], STALE
    for steps, seeds, cells in rows:
        for key, cell in zip(FIGURES, cells.split(" | "), strict=True):
            exact = [r[key] for r in MADE if r["steps"] == int(steps)]
            assert len(exact) == int(seeds)
            said = [float(x) for x in re.findall(r"[\d.]+", cell)]
            wanted = [np.mean(exact), min(exact), max(exact)]
            wanted = wanted if len(exact) > 1 else wanted[:1]
            assert said == pytest.approx(wanted, abs=5.1e-3), (steps, key, STALE)


def test_the_first_row_holds_the_run_of_the_chapter():
    (mine,) = [r for r in MADE if (r["steps"], r["seed"]) == (200, 0)]
    printed = "".join(o.get("text", "") for c in CELLS for o in c.get("outputs", []))
    (said,) = re.findall(r"CD, 200 updates +[\d.]+ +([\d.]+)", printed)
    assert mine["gradient_au_pro"] == pytest.approx(float(said), abs=0.02)


def test_the_long_run_of_seed_0_is_the_one_that_comes_with_the_book():
    (row,) = [r for r in MADE if (r["steps"], r["seed"]) == (2000, 0)]
    run = load_saved("nut_cd_2000")
    late = run.health["chain_drift_to_noise"][-4:].mean()
    assert float(late) == pytest.approx(row["chain_drift_to_noise"], rel=1e-4)


def test_no_run_was_refused_and_repeated():
    assert all(row["events"] == [] for row in MADE)
