"""What the chapters say: numbered, spelled, and the same as the library."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_book import (
    NOTEBOOKS,
    REPOSITORY,
    ROOT,
    code_cells,
    load_tool,
    read,
    shows_image,
    texts,
)

sys.path[:0] = [str(ROOT / "book" / "_ext"), str(ROOT / "tools")]  # as they are run

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)

# Where an address of the web may stand. Literature is in the bibliography, the places
# of the data are in one file, because they change; the repository's own address is
# checked in test_book.py. The others are licenses and standards.
ADDRESSES = {
    "CHANGELOG.md": ["https://keepachangelog.com", "https://semver.org"],
    "CITATION.cff": ["https://arxiv.org/abs/2105.03270"],
    "LICENSE-TEXT.md": ["https://creativecommons.org/licenses/by/4.0/"],
    "README.md": ["https://arxiv.org/abs/2105.03270", "https://www.mvtec.com/company/"],
    "_config.yml": ["https://colab.research.google.com"],
    "book/index.md": ["https://creativecommons.org/licenses/by/4.0/"],
    "book/references.bib": ["http"],
    "ebmlib/data/mvtec_facts.py": ["http"],
}


def markdown(path: Path) -> str:
    """The prose of a chapter, as it is written."""
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    return "\n\n".join(cells)


# Numbers and references


@every_notebook
def test_every_figure_has_a_number_a_caption_and_a_mention(path):
    mentioned = set(re.findall(r"\{numref\}`(?:[^`<]*<)?([\w-]+)>?`", markdown(path)))
    for cell in code_cells(path):
        if shows_image(cell):
            figure = cell.metadata.get("mystnb", {}).get("figure", {})
            name = figure.get("name", "")
            assert figure.get("caption") and name.startswith("fig-"), cell.source
            # The museum shows its pictures where it talks about them.
            assert name in mentioned or name.startswith("fig-14-"), name


@every_notebook
def test_every_equation_has_a_number(path):
    for block in re.finditer(r"\$\$(.+?)\$\$[ ]*(\([\w-]+\))?", markdown(path), re.S):
        assert block[2], f"no label after\n{block[1]}"


@every_notebook
def test_every_exercise_has_a_label_with_the_chapters_number(path):
    text, number = markdown(path), path.name[:2]
    exercises = re.findall(r"^:::+\{exercise\}.*\n:label: (\S+)", text, re.M)
    assert len(exercises) == len(re.findall(r"^:::+\{exercise\}", text, re.M)) >= 4
    assert all(label.startswith(f"ex-{number}-") for label in exercises)
    assert set(re.findall(r"^:::+\{solution\} (\S+)", text, re.M)) <= set(exercises)


@every_notebook
def test_terms_are_linked_to_the_glossary(path):
    assert "{term}`" in markdown(path)


def test_every_address_stands_where_it_is_looked_after():
    address = re.compile(r"https?://[^\s\"'<>`)\]}]+")
    names = ("http://www.w3.org/",)  # of XML; nothing is fetched from there
    local = ("http://127.0.0.1", r"https://github\.com/", REPOSITORY, *names)
    for name, text in texts():
        allowed = (*ADDRESSES.get(name, ()), *local)
        if name.startswith("tests/"):
            continue
        outside = [a for a in address.findall(text) if not a.startswith(allowed)]
        assert not outside, f"{name}: {outside}; see ADDRESSES in {Path(__file__).name}"


# Spelling


def test_the_chapters_are_spelled_well(tmp_path):
    """Prose and code; outputs hold pictures as text, which are no words."""
    for path in NOTEBOOKS:
        cells = "\n\n".join(cell.source for cell in read(path).cells)
        (tmp_path / f"{path.stem}.md").write_text(cells, encoding="utf-8")
    command = [sys.executable, "-m", "codespell_lib", "--toml", ROOT / "pyproject.toml"]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True)
    assert not done.stdout and done.returncode == 0, done.stdout + done.stderr


# The library


def names(tree: ast.AST) -> set[str]:
    """The plain names that code uses."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def asserts(tree: ast.AST) -> bool:
    """Whether code compares: an assert statement, or a call like assert_close."""
    attributes = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    statement = any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    return statement or any(a.startswith("assert_") for a in attributes)


@every_notebook
def test_a_definition_from_scratch_is_compared_with_the_library(path):
    """Some cell asserts about the chapter's own function and the library's at once."""
    own, library, found = set(), set(), []
    for cell in code_cells(path):
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                own.add(node.name)
            if isinstance(node, ast.ImportFrom) and node.module.startswith("ebmlib"):
                library |= {alias.asname or alias.name for alias in node.names}
        used = names(tree)
        if asserts(tree) and used & own and used & (library - {"check"}):
            found.append(cell)
    assert found, f"{path.name} compares nothing of its own with {sorted(library)}"


def test_the_pages_of_the_library_are_those_of_the_files_in_it():
    """The answers of the exercises are left out."""
    api_pages = load_tool("api_pages")
    expected = api_pages.pages()
    for path, text in expected.items():
        assert path.read_text(encoding="utf-8") == text, "run tools/api_pages.py"
    assert set(api_pages.FOLDER.glob("*.md")) == set(expected)
    assert any("automodule:: ebmlib.detector" in text for text in expected.values())


def test_docstrings_become_restructured_text():
    api = importlib.import_module("api")
    text = """Draw x from `langevin`, a *cold* one of (B, *shape) (chapter 3).

        x <- x - step * dE/dx

    Args:
        x: `(N, 3)`, |x| < 1.

    Example:
        langevin(energy, x)"""
    lines = [line.removeprefix("    ") for line in text.splitlines()]
    done = "\n".join(api.convert(lines, "ebmlib.langevin"))
    assert ":py:obj:`langevin <ebmlib.langevin.langevin>`" in done
    assert "*cold*" in done and r"(B, \*shape)" in done
    assert "::\n\n    x <- x - step * dE/dx" in done
    assert "``(N, 3)``" in done and r"\|x\| < 1" in done
    assert "Example::\n\n    langevin(energy, x)" in done


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("in chapter 9. Then", {"chapter 9": 9}),
        ("Chapters 3, 4 and 5 can", {"Chapters 3": 3, "4": 4, "5": 5}),
        ("see chapters 2 to\n4", {"chapters 2": 2, "4": 4}),
        ("of Chapter\n10, 32 px wide", {"Chapter\n10": 10}),
        ("32 px, 5 chapters", {}),
    ],
)
def test_a_mention_of_a_chapter_becomes_a_link(text, links):
    pieces = importlib.import_module("mentions").pieces(text)
    assert "".join(part for part, _ in pieces) == text
    assert {part: number for part, number in pieces if number is not None} == links


def test_every_chapter_that_is_mentioned_exists():
    mentions = importlib.import_module("mentions")
    known, found = mentions.chapters(ROOT), 0
    assert sorted(known) == list(range(1, 16))
    for name, text in texts():
        if name.startswith("tests/") or name.endswith(".json"):
            continue
        numbers = {n for _, n in mentions.pieces(text) if n is not None}
        found += len(numbers)
        assert numbers <= known.keys(), name
    assert found > 100


def test_the_chapters_are_counted():
    chapters = importlib.import_module("chapters")
    text = "## Two words\n\n$$\nE = x\n$$ (eq)\n\n:::{note}\none `x` two\n:::"
    assert len(chapters.WORD.findall(chapters.prose(text))) == 4
    table = chapters.table(NOTEBOOKS[:2], Path("nowhere.json"))
    assert table[-1] == "The chapters were not timed yet."
    assert len(table) == 2 + 2 + 3  # head, chapters, sum and the sentence
