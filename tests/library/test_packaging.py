"""What is shipped and how it is checked: small, typed, nothing of the book."""

import importlib.util
import re
import shutil
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of ebmlib, built from a copy of what it is made of."""
    pytest.importorskip("setuptools", minversion="77")  # as in [build-system]
    from setuptools import build_meta

    folder = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for package in ("ebmlib", "ebmbook"):  # whatever lies beside it
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder / build_meta.build_wheel(str(folder))


def test_the_wheel_holds_the_library_and_nothing_of_the_book(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    code = {name for name in names if ".dist-info/" not in name}
    modules = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "ebmlib").rglob("*.py")
    }
    assert code == modules | {"ebmlib/py.typed", "ebmlib/report/template.html"}
    assert wheel.stat().st_size < 400_000


def test_every_lower_bound_can_be_installed_as_it_stands():
    path = ROOT / "tools" / "lowest_versions.py"
    spec = importlib.util.spec_from_file_location("lowest_versions", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    found = dict(line.split("==") for line in tool.bounds())
    assert found["pillow"] == "10.1" and found["joblib"] == "1.4"
    assert {"torch", "numpy", "scipy", "torchvision", "distributed"} <= found.keys()


def test_a_commit_is_checked_by_the_commands_of_make_lint():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    hooks = re.findall(r"entry: \.venv/bin/python (.*)", text)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^lint: .*\n((?:\t.*\n)+)", makefile, re.M)[1]
    assert hooks == re.findall(r"\$\(PY\) (.*)", recipe)
    assert "http" not in text  # nothing is fetched
