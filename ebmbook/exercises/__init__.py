"""Checks an answer to an exercise and replies with a hint that fits the mistake.

Each chapter with code exercises has a file `chapter_NN.py` here. It holds one *judge*
per exercise: a function that takes the reader's answer, returns a sentence when it is
right, and raises `Hint` when it is wrong. What the judges share is in `answers.py`.
Readers call only `check`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Hint(Exception):  # noqa: N818
    """Raised by a judge: what is wrong with the answer, and where to look."""


@dataclass(frozen=True)
class Exercise:
    """One exercise with an automatic check.

    Attributes:
        judge: takes the answer; returns why it is right, or raises `Hint`.
        start: where to begin, told while the answer is still missing.
    """

    judge: Callable[[Any], str]
    start: str


@dataclass(frozen=True)
class Feedback:
    """The reply to an answer; prints as its message."""

    correct: bool
    message: str

    def __repr__(self) -> str:
        return self.message


def check(label: str, answer: Any) -> Feedback:
    """Judge the answer to one exercise.

    Args:
        label: the exercise's label, such as `"ex-08-ranks"`.
        answer: what the exercise asks for: a number, a tensor or a function. `None`,
            or a function that returns None, counts as not answered yet.

    Returns:
        `Feedback` whose message begins with "correct", "not yet" or "open". A mistake
        in the answer never raises: an exception of the reader's function is part of
        the feedback.

    Raises:
        ValueError: there is no such exercise.
    """
    exercise = find(label)
    if answer is None:
        return Feedback(False, f"open. {exercise.start}")
    asked = _Asked(answer) if callable(answer) else answer
    try:
        praise = exercise.judge(asked)
    except Hint as hint:
        reply = f"not yet: {hint}"
    except Exception as error:  # the reader's code, or an answer of a wrong kind
        reply = f"not yet: your answer raised {type(error).__name__}: {error}"
    else:
        reply = f"correct. {praise}"
    if isinstance(asked, _Asked) and asked.silent:
        return Feedback(False, f"open. {exercise.start}")
    return Feedback(reply.startswith("correct"), reply)


def find(label: str) -> Exercise:
    """The exercise of this label."""
    found = re.fullmatch(r"ex-(\d\d)-[a-z0-9-]+", label)
    if found:
        try:
            name = f"{__name__}.chapter_{found[1]}"
            exercises = importlib.import_module(name).EXERCISES
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            exercises = {}
        if label in exercises:
            return exercises[label]
        known = ", ".join(exercises) or "none"
        raise ValueError(f"no exercise {label!r}; chapter {int(found[1])} has: {known}")
    raise ValueError(f"label must look like 'ex-08-ranks', got {label!r}")


class _Asked:
    """The reader's function; remembers whether it only ever returned None."""

    def __init__(self, function: Callable):
        self.function, self.calls, self.answers = function, 0, 0

    def __call__(self, *args, **kwargs):
        value = self.function(*args, **kwargs)
        self.calls += 1
        self.answers += value is not None
        return value

    @property
    def silent(self) -> bool:
        """Whether it was called, and never returned anything."""
        return self.calls > 0 and self.answers == 0
