"""The benchmark's command gives each result a process of its own."""

import contextlib
import io
import json
import os
from types import SimpleNamespace

import pytest
import torch
from small_category import felt

from ebmlib import benchmark

FIELDS = {
    *("category", "method", "seed", "image_size", "settings", "metrics", "images"),
    *("vanished_masks", "seconds", "peak_memory_mb", "versions", "hardware", "command"),
    *("options", "date"),
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two results: one must fail, and a large process asks for them."""
    root, out = (tmp_path_factory.mktemp(name) for name in ("images", "results"))
    broken = next((felt(root) / "train" / "good").iterdir())
    broken.write_bytes(b"no image")
    words = ["--size", "32", "--seeds", "0", "1", "--methods", "brightness"]
    words += ["--root", str(root), "--out", str(out), "--categories"]
    big, said = torch.ones(100_000_000), io.StringIO()  # 400 MB here
    with contextlib.redirect_stdout(said):
        code = benchmark.main([*words, "mvtec/felt", "synthetic/bolt"])
    assert code == 1 and len(big)
    (path,) = out.rglob("*.json")  # a method without randomness runs once
    return SimpleNamespace(
        broken=broken.name, folders=(root, out), words=words, path=path, said=said
    )


def test_a_failed_cell_is_reported_and_stops_nothing(swept):
    said = swept.said.getvalue()
    assert "mvtec-felt_brightness_32px_seed0.json: FAILED: " in said
    assert swept.broken in said
    assert "1 of 2 failed; the same command tries them again" in said
    assert swept.path.name == "synthetic-bolt_brightness_32px_seed0.json"


def test_the_command_writes_whole_files_and_repeats_nothing(swept, capsys):
    text = swept.path.read_text()
    result = json.loads(text)
    assert set(result) == FIELDS
    assert not any(str(folder) in text for folder in swept.folders)
    # The lamp gives the bolt away: brightness alone separates good from defective.
    assert result["metrics"]["image_auroc"] > 0.99
    before = swept.path.stat().st_mtime_ns
    assert benchmark.main([*swept.words, "synthetic/bolt"]) == 0
    assert "already there" in capsys.readouterr().out
    assert swept.path.stat().st_mtime_ns == before


@pytest.mark.skipif(os.name == "nt", reason="needs psutil there")
def test_peak_memory_is_that_of_the_cell_not_of_the_process_that_asked(swept):
    result = json.loads(swept.path.read_text())
    assert 50 < result["peak_memory_mb"] < benchmark.peak_memory_mb() - 200
