"""Facts about result files: one place knows their names, and none is half written."""

import ast
import json
import re
from pathlib import Path

import pytest

from ebmlib import results_files
from ebmlib.results_files import (
    check_writable,
    peer_path,
    peers_name,
    read_json,
    read_peers,
    read_runs,
    record,
    record_path,
    records,
    result_path,
    size_label,
    to_text,
    write_result,
)

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_lies_in_the_folder_of_its_sweep():
    path = result_path("all", "mvtec/bottle", "experts", 2, 128)
    assert path == Path("all/mvtec_128px/mvtec-bottle_experts_128px_seed2.json")
    path = result_path("all", "synthetic/nut", "experts", 0, 64, steps=8000)
    assert path.name == "synthetic-nut_experts_8000steps_64px_seed0.json"
    path = result_path("all", "mvtec/strip", "pca", 0, (640, 256))
    assert path == Path("all/mvtec_640x256px/mvtec-strip_pca_640x256px_seed0.json")
    assert path == result_path("all", "mvtec/strip", "pca", 0, "640x256")
    assert result_path("all", "a/b", "pca", 0, (64, 64)).parent.name == "a_64px"
    path = record_path("all", "drills", "kill_drill")
    assert path == Path("all/drills/kill_drill.json")
    path = record_path("all", "history", "training_curve", "mvtec/bottle_256px")
    assert path.name == "training_curve_mvtec-bottle_256px.json"
    with pytest.raises(ValueError, match="group must be one of"):
        record_path("all", "elsewhere", "kill_drill")


def test_runs_are_found_by_what_they_hold_and_come_in_order(tmp_path):
    run = {"method": "pca", "metrics": {}, "image_size": 64}
    high = (64, 32)
    asked = (("b/x", 64, 0), ("a/x", 128, 1), ("a/x", high, 0), ("a/x", 64, 0))
    for category, size, seed in asked:
        made = {**run, "category": category, "seed": seed}
        made["image_size"] = size_label(size)
        write_result(result_path(tmp_path, category, "pca", seed, size), made)
    write_result(record_path(tmp_path, "drills", "kill_drill"), {"kills": 50})
    found = [(r["category"], r["image_size"]) for r in read_runs(tmp_path).values()]
    assert found == [("a/x", 64), ("a/x", "64x32"), ("a/x", 128), ("b/x", 64)]
    assert read_runs(tmp_path / "nowhere") == {}


def test_runs_of_other_packages_are_kept_apart(tmp_path):
    path = peer_path(peers_name(256), "mvtec/bottle", "anomalib_padim", 0, 256)
    assert path == Path("peers_256px/mvtec-bottle_anomalib_padim_256px_seed0.json")
    changed = peer_path("peers", "mvtec/bottle", "padim", 1, 256, "shift4")
    assert changed.name == "mvtec-bottle_padim_shift4_256px_seed1.json"
    run = {"category": "a/x", "method": "m", "metrics": {}, "image_size": 64, "seed": 0}
    write_result(result_path(tmp_path, "a/x", "m", 0, 64), run)
    other = peer_path(tmp_path / peers_name(64), "a/x", "m", 0, 64)
    write_result(other, {**run, "package": "anomalib"})
    assert list(read_runs(tmp_path)) == [result_path(tmp_path, "a/x", "m", 0, 64)]
    assert list(read_peers(tmp_path)) == [other]


def test_a_record_is_found_by_the_name_of_its_script(tmp_path):
    assert record(tmp_path, "curve") is None and records(tmp_path, "curve") == {}
    write_result(record_path(tmp_path, "experiments", "curve", "a/b"), {"n": 1})
    write_result(record_path(tmp_path, "history", "curves"), {"n": 2})
    assert record(tmp_path, "curve") == {"n": 1}
    write_result(record_path(tmp_path, "experiments", "curve", "a/c"), {"n": 3})
    assert [made["n"] for made in records(tmp_path, "curve").values()] == [1, 3]
    with pytest.raises(ValueError, match="curve wrote 2 records"):
        record(tmp_path, "curve")


@pytest.mark.parametrize("broken", [b"", b"{", b'{"a": 1}}', b"\xff"])
def test_a_broken_file_is_named_with_its_cure(broken, tmp_path):
    path = tmp_path / "broken.json"
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"broken.json is not a whole JSON .* delete"):
        read_json(path)


def test_files_are_json_with_short_lists():
    value = {"a": {"b": [1, 2.5], "c": {}}, "d": [], "e": "x [1,  2]"}
    assert json.loads(to_text(value)) == value
    assert to_text(value).splitlines()[2] == '  "b": [1, 2.5],'


def test_a_folder_is_tried_and_nothing_stays_in_it(tmp_path):
    check_writable(tmp_path / "new" / "one", "--out")
    assert list((tmp_path / "new" / "one").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--out .*file cannot be written"):
        check_writable(tmp_path / "file", "--out")


def test_no_other_file_knows_the_names_of_results():
    """Neither a name of a folder nor a pattern of files stands anywhere else."""
    own = Path(results_files.__file__).name
    made = re.compile(
        r"(?:^|results/)\w+_[\dx]+px(?:/|$)|_seed[*{\d].*json|results/\w+/"
    )
    groups = {f"{group}/" for group in results_files.GROUPS}
    paths = [
        path
        for folder in ("ebmlib", "ebmbook", "tools", "benchmarks", "book/_ext")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != own and "history" not in path.parts
    ]
    assert len(paths) > 50
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)
        ]
        docs = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
        }
        for text in texts:
            if isinstance(text, str) and text not in docs and "\n" not in text:
                assert not made.search(text) and text not in groups, (path, text)
