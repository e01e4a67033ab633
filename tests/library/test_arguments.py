"""Facts about the checks of numbers: what passes, and that the message names it."""

import math

import numpy as np
import pytest

from ebmlib.arguments import real_number, whole_number


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_any_kind_pass_as_an_int(value):
    assert whole_number("steps", value, 1) == 3
    assert type(whole_number("steps", value, 1)) is int


@pytest.mark.parametrize("value", [0, -5, True, 2.0, "a", None, math.nan, [3], 10])
def test_anything_else_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^steps must .* >= 1 and < 10, got"):
        whole_number("steps", value, 1, 10)


@pytest.mark.parametrize(
    ("allowed", "good", "bad"),
    [
        ("(0, inf)", [1e-300, 5, np.float32(2)], [0, -1, math.inf, math.nan]),
        ("(0, inf]", [math.inf], [0.0, -math.inf, math.nan]),
        ("[0, 1)", [0, 0.0, 0.999], [1, 1.0, -1e-9]),
        ("[-1, 1]", [-1, 1], [1.0000001]),
    ],
)
def test_an_interval_says_which_ends_belong_to_it(allowed, good, bad):
    for value in good:
        assert real_number("rate", value, allowed) == value
        assert type(real_number("rate", value, allowed)) is float
    for value in [*bad, True, "1", None, 1j, [1.0]]:
        with pytest.raises(ValueError, match=r"^rate must be a number in"):
            real_number("rate", value, allowed)
