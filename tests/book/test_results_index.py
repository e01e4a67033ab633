"""The index of results/ is what its tool writes, and names every file."""

import csv
import importlib.util
from pathlib import Path
from statistics import mean

import pytest

from ebmlib.results_files import INDEX, SUMMARY, read_json, read_runs, result_path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools" / "index_results.py"
    spec = importlib.util.spec_from_file_location("index_results", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_index_is_up_to_date(tool):
    stale = "run python tools/index_results.py"
    assert (RESULTS / INDEX).read_text(encoding="utf-8") == tool.index(RESULTS), stale
    found = (RESULTS / SUMMARY).read_text(encoding="utf-8")
    assert found == tool.summary(RESULTS), stale


def test_the_summary_has_every_run_once_and_its_figures():
    rows = list(csv.DictReader((RESULTS / SUMMARY).open(encoding="utf-8")))
    files = [name for row in rows for name in row["files"].split()]
    runs = {path.relative_to(RESULTS).as_posix() for path in read_runs(RESULTS)}
    assert len(files) == len(set(files)) and set(files) == runs
    for row in rows:
        made = [read_json(RESULTS / name) for name in row["files"].split()]
        assert {(m["category"], str(m["image_size"])) for m in made} == {
            (row["category"], row["image_size"])
        }
        assert row["seeds"] == " ".join(str(m["seed"]) for m in made)
        exact = [m["metrics"]["image_auroc"] for m in made]
        said = [float(row[f"image_auroc_{part}"]) for part in ("mean", "min", "max")]
        assert said == pytest.approx([mean(exact), min(exact), max(exact)], abs=5.1e-5)


def test_every_run_of_the_benchmark_lies_where_its_contents_say():
    for path, run in read_runs(RESULTS).items():
        if path.parent.name == "history":
            continue
        steps = run.get("options", {}).get("steps")
        names = run["category"], run["method"], run["seed"], run["image_size"], steps
        assert path == result_path(RESULTS, *names)
        assert {"seed", "settings", "versions", "hardware", "command", "date"} <= set(
            run
        )


def test_an_index_that_is_out_of_date_is_found(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["index_results.py", "--check"])
    assert tool.main() == 1 and "is out of date" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["index_results.py"])
    assert tool.main() == 0 and (tmp_path / INDEX).exists()
    monkeypatch.setattr("sys.argv", ["index_results.py", "--check"])
    assert tool.main() == 0
