"""The package carries the results on real images, and they are those of results/."""

import importlib.util
from pathlib import Path
from statistics import mean

import pytest

from ebmbook.results import (
    SHIPPED,
    SHIPPED_FEATURES,
    features_table,
    gain,
    read_results,
    results_table,
    shipped_feature_results,
    shipped_results,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location(
        "ship_results", ROOT / "tools" / "ship_results.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shipped_file_is_what_the_tool_writes(tool):
    text = SHIPPED.read_text(encoding="utf-8")
    assert text == tool.shipped(), "run python tools/ship_results.py"
    text = SHIPPED_FEATURES.read_text(encoding="utf-8")
    assert text == tool.shipped_features(), "run python tools/ship_results.py"


def test_tables_and_gains_are_the_same_from_both(tool):
    here = [
        run
        for run in read_results(ROOT / "results")
        if run["category"] in tool.CATEGORIES and run["method"] not in tool.ELSEWHERE
    ]
    there = shipped_results()
    assert results_table(here) == results_table(there)
    for run, copy in zip(here, there, strict=True):
        if "energy" in run.get("images", {}).get("scores", {}):
            assert gain([run], n=50) == gain([copy], n=50)


def test_only_real_images_are_shipped():
    assert {run["category"].split("/")[0] for run in shipped_results()} == {"mvtec"}
    sources = {run["category"].split("/")[0] for run in shipped_feature_results()}
    assert sources == {"mvtec"}


def test_the_table_of_energies_on_features_quotes_its_runs():
    runs = shipped_feature_results()
    table = features_table(runs)
    pill = [
        run["metrics"]
        for run in runs
        if (run["category"], run["method"]) == ("mvtec/pill", "fields")
    ]  # one a seed
    names = [name.strip() for name in table[0].split("|")]
    place = names.index("pill")
    rows = [[cell.strip() for cell in line.split("|")] for line in table[2:]]
    (mine,) = (i for i, row in enumerate(rows) if row[1] == "product of both fields")
    measures = ("image_auroc", "pixel_auroc", "au_pro")
    expected = " / ".join(f"{mean(m[name] for m in pill):.3f}" for name in measures)
    assert rows[mine][place] == expected
    alone = [metrics["maps"]["gradient"] for metrics in pill]
    assert rows[mine + 1][1] == "its gradient alone"
    expected = " / ".join(f"{mean(m[name] for m in alone):.3f}" for name in measures)
    assert rows[mine + 1][place] == expected
