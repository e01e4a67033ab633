"""What judges share: one number, one tensor, copies of the input, near misses."""

import math

import numpy as np
import pytest
import torch

from ebmbook.exercises import Hint
from ebmbook.exercises.answers import (
    ask,
    number,
    pair,
    real_number,
    reject_near_miss,
    tensor,
)


@pytest.mark.parametrize(
    "answer",
    [
        2,
        2.0,
        [2.0],
        np.float32(2),
        np.full((1, 1), 2),
        torch.tensor([2], dtype=torch.bfloat16),
        torch.tensor(2.0, requires_grad=True),
    ],
)
def test_one_element_is_one_number(answer):
    assert number(answer) == 2.0


@pytest.mark.parametrize(
    "answer, hint", [(torch.ones(3, 2), r"got 6, shape \(3, 2\)"), (None, "got None")]
)
def test_several_numbers_or_none_are_not_one(answer, hint):
    with pytest.raises(Hint, match=hint):
        number(answer)
    with pytest.raises(ValueError, match="could not convert"):
        number("many")


def test_a_tensor_takes_the_type_of_the_right_one():
    wanted = torch.zeros(2, 3)
    assert tensor(wanted.double(), wanted, "zeros").dtype == wanted.dtype
    with pytest.raises(Hint, match=r"return zeros, a tensor \(2, 3\); got \(3, 2\)"):
        tensor(wanted.T, wanted, "zeros")
    with pytest.raises(Hint, match="list"):
        tensor(wanted.tolist(), wanted, "zeros")


@pytest.mark.parametrize("x", [torch.ones(3), np.ones(3)])
def test_a_changed_input_is_told_and_the_own_one_is_kept(x):
    def in_place(x, power):
        x += 1
        return x**power

    with pytest.raises(Hint, match="changed its input"):
        ask(in_place, x, 2)
    assert (x == 1).all()
    assert (ask(lambda x, power: x + power, x, 2) == 3).all()


def test_an_input_that_is_reshaped_in_place_has_changed():
    with pytest.raises(Hint, match="changed its input"):
        ask(lambda x: x.unsqueeze_(0), torch.ones(3))


def test_a_near_miss_is_told_its_relative_error():
    with pytest.raises(Hint, match="relative error is 2e-03, needed is 1e-06"):
        reject_near_miss(0.167, 1 / 6, 1e-6)
    with pytest.raises(Hint, match="close"):
        reject_near_miss(torch.tensor([1.0, 2.002]), [1.0, 2.0], 1e-6)
    reject_near_miss(1 + 1e-7, 1.0, 1e-6)  # near enough
    reject_near_miss(1.1, 1.0, 1e-6)  # not near
    reject_near_miss(math.nan, 1.0, 1e-6)


@pytest.mark.parametrize(
    "root",
    [
        lambda: math.sqrt(-1.0),
        lambda: (-1.0) ** 0.5,
        lambda: torch.tensor(-1.0).sqrt(),
        lambda: math.nan,
    ],
)
def test_the_root_of_a_negative_number_gets_its_hint(root):
    with pytest.raises(Hint, match="not real"):
        real_number(root, "not real")


def test_a_real_number_is_given_back_and_other_errors_stay():
    assert real_number(lambda: [2], "not real") == 2.0
    assert real_number(lambda: torch.tensor(-1.0), "not real") == -1.0
    with pytest.raises(Hint, match="one number for all"):
        real_number(lambda: [1.0, 2.0], "not real")
    with pytest.raises(ValueError, match="could not convert"):
        real_number(lambda: "many", "not real")


@pytest.mark.parametrize("answer", [1.0, None, torch.tensor(1.0), [1.0, 2.0, 3.0]])
def test_what_are_not_two_numbers_gets_a_hint(answer):
    assert pair(np.array([1, 2]), "this and that") == (1, 2)
    with pytest.raises(Hint, match="return two numbers, this and that"):
        pair(answer, "this and that")
