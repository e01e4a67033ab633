"""The checks of the exercises: what they accept, and the hint for a typical mistake."""

import importlib
import math
import re
from pathlib import Path

import nbformat
import pytest

from ebmbook.exercises import Exercise, Hint, check, find

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(ROOT.glob("ebmbook/exercises/chapter_*.py"))


def judged(chapter: Path) -> dict[str, Exercise]:
    return importlib.import_module(f"ebmbook.exercises.{chapter.stem}").EXERCISES


def cells(chapter: Path) -> list:
    (path,) = ROOT.glob(f"notebooks/{chapter.stem[-2:]}_*.ipynb")
    return nbformat.read(path, as_version=4).cells


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda p: p.stem)
def test_each_exercise_is_asked_checked_and_solved_in_its_chapter(chapter):
    found = cells(chapter)
    for label in judged(chapter):
        asked = [c for c in found if f":label: {label}\n" in c.source]
        assert len(asked) == 1, label
        calls = [c for c in found if f'check("{label}"' in c.source]
        replies = [
            "".join(str(out.get("data", "")) for out in c.outputs) for c in calls
        ]
        assert any("open. " in reply for reply in replies), label
        assert any("correct. " in reply for reply in replies), label


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda p: p.stem)
def test_each_exercise_has_tests_of_its_hints(chapter):
    test = ROOT / "tests" / "book" / f"test_exercises_{chapter.stem[-2:]}.py"
    for label in judged(chapter):
        assert f'"{label}"' in test.read_text(), label


def test_every_check_in_a_notebook_has_a_judge():
    for path in ROOT.glob("notebooks/*.ipynb"):
        for label in re.findall(r"check\(\\\"([^\"\\]+)\\\"", path.read_text()):
            assert isinstance(find(label), Exercise)


def test_a_missing_answer_is_open_and_an_exception_is_reported():
    assert str(check("ex-08-size", None)).startswith("open. ")
    silent = check("ex-08-size", lambda shift, target: None)
    assert not silent.correct and repr(silent).startswith("open. ")
    broken = check("ex-08-size", lambda shift, target: 1 / 0)
    assert not broken.correct and "ZeroDivisionError" in broken.message
    assert "TypeError" in check("ex-08-size", 3).message  # a number, not a function


def test_an_unknown_label_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="ex-08-ranks"):
        find("ex-08-nothing")
    with pytest.raises(ValueError, match="chapter 99 has: none"):
        find("ex-99-nothing")
    with pytest.raises(ValueError, match="must look like"):
        find("8.2")


def test_a_hint_is_shown_as_it_was_written():
    def judge(answer):
        if not math.isclose(answer, 2):
            raise Hint("twice one.")
        return "Two."

    exercise = Exercise(judge, "Count.")
    with pytest.raises(Hint, match=r"twice one\."):
        exercise.judge(3)
