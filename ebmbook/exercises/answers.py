"""What the judges of several chapters ask of an answer, whatever its exercise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmbook.exercises import Hint


def number(answer: Any) -> float:
    """The answer as a float; an array or a tensor of one element counts as one."""
    if answer is None:
        raise Hint("return one number; got None.")
    if isinstance(answer, Tensor):
        answer = answer.tolist()
    values = np.asarray(answer, dtype=float)
    if values.size != 1:
        raise Hint(
            f"return one number for all; got {values.size}, shape {values.shape}."
        )
    return float(values.item())


def pair(answer: Any, what: str) -> tuple[Any, Any]:
    """The two parts of an answer that should have two."""
    try:
        first, second = answer
    except (TypeError, ValueError) as error:
        raise Hint(f"return two numbers, {what}.") from error
    return first, second


def tensor(answer: Any, wanted: Tensor, what: str) -> Tensor:
    """The answer in the type of the right one, if it is a tensor of its shape."""
    if not isinstance(answer, Tensor) or answer.shape != wanted.shape:
        got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer)
        raise Hint(f"return {what}, a tensor {tuple(wanted.shape)}; got {got}.")
    return answer.detach().to(wanted.dtype)


def ask(function: Callable, *arguments: Any) -> Any:
    """The function's answer to copies of the arguments, which it must not change."""
    given = [_copy(argument) for argument in arguments]
    answer = function(*given)
    for mine, theirs in zip(arguments, given, strict=True):
        if isinstance(mine, (Tensor, np.ndarray)) and not _equal(mine, theirs):
            raise Hint("your function changed its input; work on a copy.")
    return answer


def reject_near_miss(value: Any, right: Any, needed: float, within=5e-3) -> None:
    """Raise a hint about the digits if the answer is wrong only in the late ones."""
    value, right = np.asarray(value, dtype=float), np.asarray(right, dtype=float)
    error = (np.abs(value - right) / np.maximum(np.abs(right), 1e-12)).max()
    if needed < error < within:
        raise Hint(
            f"close: the relative error is {error:.0e}, needed is {needed:.0e}. Keep "
            "more digits: no rounding, float64, a finer search."
        )


def real_number(answer: Callable[[], Any], otherwise: str) -> float:
    """`number` of what the call returns; the root of a negative one gets its hint.

    `math.sqrt` raises then, NumPy and torch return NaN, and `**` a complex number.
    """
    try:
        value = answer()
        value = math.nan if np.iscomplexobj(value) else number(value)
    except ValueError as error:
        if not any(words in str(error) for words in ("math domain", "nonnegative")):
            raise
        value = math.nan
    if math.isnan(value):
        raise Hint(otherwise)
    return value


def _copy(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.clone()
    return argument.copy() if isinstance(argument, np.ndarray) else argument


def _equal(mine: Tensor | np.ndarray, theirs: Tensor | np.ndarray) -> bool:
    """Equal but for rounding: a path may be shifted and shifted back."""
    if mine.shape != theirs.shape:
        return False
    mine, theirs = torch.as_tensor(mine), torch.as_tensor(theirs).detach()
    return torch.allclose(mine, theirs)
