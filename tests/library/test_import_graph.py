"""The import graph of the packages obeys its rules, and the rules can be broken."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What other work in progress mends; nothing may be added here.
KNOWN: set[str] = set()


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools" / "import_graph.py"
    spec = importlib.util.spec_from_file_location("import_graph", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["import_graph"] = module  # NamedTuple looks its module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(tool):
    return tool.graph()


def test_every_module_is_read_and_has_a_layer(tool, found):
    assert len(found.modules) > 60 and "ebmlib.data.images" in found.modules
    assert tool.unplaced(found.modules) == []
    assert found.edges["ebmlib.plotting"] == {"ebmlib.metrics"}


def test_no_circle_not_even_through_imports_inside_functions(tool, found):
    assert tool.circles(found.edges) == []


def test_imports_only_go_down(tool, found):
    assert set(tool.upward(found.edges)) <= KNOWN
    assert tool.into_the_book(found.edges) == []


def test_what_is_private_stays_at_home(tool, found):
    assert tool.private(found) == []


def test_a_plain_installation_has_all_that_is_imported_at_the_top(tool, found):
    declared = tool.dependencies()
    assert {"torch", "PIL", "sklearn", "joblib"} <= declared
    assert not {"torchvision", "distributed", "ipywidgets"} & declared
    assert tool.undeclared(found, declared) == []


# ------------------------------------------------------- the rules notice what they say


def package(root: Path, **files: str) -> Path:
    """A tiny ebmlib (and ebmbook) made of these files."""
    for name in ("ebmlib", "ebmbook"):
        (root / name).mkdir()
        (root / name / "__init__.py").write_text("")
    for name, text in files.items():
        path = root / "ebmlib" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return root


def test_a_circle_is_found_wherever_the_import_stands(tool, tmp_path):
    made = tool.graph(
        package(
            tmp_path,
            energy="from ebmlib import toy",
            toy="def f():\n    from ebmlib.networks import net",
            networks="import ebmlib.energy",
            random="from . import energy",
        )
    )
    assert tool.circles(made.edges) == [
        ["ebmlib.energy", "ebmlib.networks", "ebmlib.toy"]
    ]
    assert made.edges["ebmlib.random"] == {"ebmlib.energy"}


def test_imports_for_a_type_checker_alone_do_not_count(tool, tmp_path):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
    text += "    from ebmlib.detector import EnergyDetector"
    made = tool.graph(package(tmp_path, energy=text, detector="import ebmlib.energy"))
    assert tool.circles(made.edges) == tool.upward(made.edges) == []


def test_an_import_upward_and_one_into_the_book_are_named(tool, tmp_path):
    made = tool.graph(
        package(
            tmp_path,
            energy="import ebmlib.detector",
            detector="def f():\n    import ebmbook",
            unknown="",
        )
    )
    assert tool.upward(made.edges) == [
        "ebmlib.detector (5) imports ebmbook (7)",
        "ebmlib.energy (1) imports ebmlib.detector (5)",
    ]
    assert tool.into_the_book(made.edges) == ["ebmlib.detector imports ebmbook"]
    assert tool.unplaced(made.modules) == ["ebmlib.unknown"]


def test_private_names_and_modules_are_named(tool, tmp_path):
    made = tool.graph(
        package(
            tmp_path,
            energy="from ebmlib.toy import _one, __version__, two\nimport torch",
            toy="from ebmlib import metrics\nmetrics._numpy(metrics.__doc__)",
            metrics="from ebmlib.data._drawing import draw",
            data__synthetic="from ebmlib.data._drawing import draw",
            data___drawing="self = cls = None\nself._here = cls._there",
        )
    )
    assert tool.private(made) == [
        "ebmlib.energy takes _one from ebmlib.toy",
        "ebmlib.metrics imports the private module ebmlib.data._drawing",
        "ebmlib.toy takes _numpy from ebmlib.metrics",
    ]


def test_an_optional_package_at_the_top_is_named_and_inside_a_function_is_not(
    tool, tmp_path
):
    made = tool.graph(
        package(
            tmp_path,
            energy="import torch.nn\nimport json\nimport torchvision\nimport resource",
            toy="def f():\n    import torchvision, resource",
        )
    )
    assert tool.undeclared(made, {"torch"}) == [
        "ebmlib.energy, line 3: torchvision",
        "ebmlib.energy, line 4: resource",
    ]
