"""Facts about a sweep that need no other process: see tests/processes for the rest."""

import json
import sys

import pytest

from ebmlib.results_files import write_result
from ebmlib.sweep import sweep


def test_a_result_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "result.json"
    with pytest.raises(TypeError):
        write_result(path, {"metrics": {1, 2}})  # a set is no JSON
    assert not path.exists()
    write_result(path, {"metrics": 1})
    write_result(path, {"metrics": 2})
    assert json.loads(path.read_text()) == {"metrics": 2}
    assert list(path.parent.iterdir()) == [path]


def test_without_dask_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"pip install ebmlib\[cluster\]"):
        next(sweep([], dask="tcp://127.0.0.1:1"))
