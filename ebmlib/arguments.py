"""Checks of numbers that a caller gives, with messages that name the argument."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def whole_number(name: str, value: Any, least: int, below: float = math.inf) -> int:
    """The value as an int, if it is a whole number with least <= value < below.

    Integers of NumPy are accepted. True and False are not numbers here.

    Raises:
        ValueError: It is anything else; the message starts with `name`.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if whole and least <= value < below:
        return int(value)
    top = "" if below == math.inf else f" and < {below}"
    raise ValueError(f"{name} must be a whole number >= {least}{top}, got {value!r}")


def real_number(name: str, value: Any, allowed: str) -> float:
    """The value as a float, if it lies in the interval `allowed`.

    Args:
        name: Name of the argument, for the message.
        value: What was given. Floats of NumPy are accepted, True and False are not.
        allowed: An interval such as "(0, 1]" or "[0, inf)"; round brackets leave the
            end out. "inf" as an included end, as in "(0, inf]", allows infinity.

    Raises:
        ValueError: It is no number, NaN, or outside; the message starts with `name`.
    """
    low, high = (float(end) for end in allowed[1:-1].split(","))
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        above = number > low or (number == low and allowed[0] == "[")
        below = number < high or (number == high and allowed[-1] == "]")
        if above and below:
            return number
    raise ValueError(f"{name} must be a number in {allowed}, got {value!r}")
