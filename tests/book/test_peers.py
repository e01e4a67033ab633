"""Facts about the recorded runs of other packages, and about their script."""

import ast
import sys
from pathlib import Path

import pytest

from ebmlib.results_files import peer_path, peers_name, read_peers

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
FOLDER = ROOT / "benchmarks" / "peers"


def test_every_run_of_a_peer_lies_where_its_contents_say():
    runs = read_peers(RESULTS)
    assert runs
    for path, run in runs.items():
        size = run["image_size"]
        names = run["category"], run["method"], run["seed"], size, run.get("change")
        assert path == peer_path(RESULTS / peers_name(size), *names)
        needed = {"package", "settings", "versions", "hardware", "command", "date"}
        assert needed <= set(run)
        assert len(run["images"]["scores"]["score"]) == len(run["images"]["labels"])


def test_anomalib_and_the_library_measure_alike():
    runs = [run for run in read_peers(RESULTS).values() if "change" not in run]
    for run in runs:
        ours, theirs = run["metrics"], run["own_metrics"]
        assert abs(theirs["au_pro_minus_exact"]) < 1e-3
        for name in ("image_auroc", "pixel_auroc", "au_pro"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-3)


def test_the_packages_of_the_peers_are_imported_where_they_are_needed():
    """No test or tool of the project needs them, and their versions are pinned."""
    pinned = (FOLDER / "requirements.txt").read_text(encoding="utf-8")
    lines = [line for line in pinned.splitlines() if not line.startswith("#")]
    assert lines and all("==" in line for line in lines)
    own = {path.stem for path in FOLDER.glob("*.py")} | {"changes"}
    known = own | set(sys.stdlib_module_names) | {"numpy", "torch", "ebmlib"}
    for path in FOLDER.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= known
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] in known
