"""Typical answers to the exercises of chapter 9, and the hint that each must get."""

import pytest

from ebmlib.energy import input_gradient
from ebmlib.exercises import check


def slope(scale=1.0, ahead=1.0, behind=1.0, unit=False, total=False):
    def answer(energy, x, d, h):
        d = d / d.norm(dim=1, keepdim=True) if unit else d
        rise = energy(x + ahead * h * d) - energy(x - behind * h * d)
        rise = rise.sum() if total else rise
        return scale * rise / ((ahead + behind) * h)

    return answer


def undivided(energy, x, d, h):
    return energy(x + h * d) - energy(x - h * d)


def by_autograd(energy, x, d, h):
    return (input_gradient(energy, x) * d).sum(1)


def repair(sign=-1.0, power=-1, once=False, clamp=True, stale=False):
    def answer(energy, x, kappa, steps):
        first = input_gradient(energy, x)
        for _ in range(1 if once else steps):
            gradient = first if stale else input_gradient(energy, x)
            x = x + sign * kappa**power * gradient
            x = x.clamp(0, 1) if clamp else x
        return x

    return answer


def in_place(energy, x, kappa, steps):
    x -= input_gradient(energy, x) / kappa
    return x


@pytest.mark.parametrize(
    "label, answer", [("ex-09-difference", slope()), ("ex-09-repair", repair())]
)
def test_the_right_answer_is_accepted(label, answer):
    feedback = check(label, answer)
    assert feedback.correct, feedback


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-09-difference", slope(scale=2.0), "2 h apart"),
        ("ex-09-difference", slope(scale=-1.0), "forward minus backward"),
        ("ex-09-difference", undivided, "by 2 h"),
        ("ex-09-difference", slope(behind=0.0), "one-sided"),
        ("ex-09-difference", slope(ahead=0.0), "one-sided"),
        ("ex-09-difference", slope(unit=True), "keep its length"),
        ("ex-09-difference", slope(total=True), "one number per image"),
        ("ex-09-difference", lambda e, x, d, h: slope()(e, x, d, 1e-3), "exact slope"),
        ("ex-09-difference", lambda e, x, d, h: slope()(e, x, d, 0.3), "given"),
        ("ex-09-difference", by_autograd, "without autograd"),
        ("ex-09-difference", lambda energy, x, d, h: energy(x), "first image"),
        ("ex-09-difference", lambda energy, x, d, h: "steep", "raised"),
        ("ex-09-repair", repair(sign=1.0), "up the energy"),
        ("ex-09-repair", repair(power=0), "divide the gradient"),
        ("ex-09-repair", repair(power=1), "do not multiply"),
        ("ex-09-repair", repair(once=True), "only one step"),
        ("ex-09-repair", repair(stale=True), "take the gradient anew"),
        ("ex-09-repair", repair(clamp=False), "clamp"),
        ("ex-09-repair", in_place, "changed its input"),
        ("ex-09-repair", lambda energy, x, kappa, steps: x, "unchanged"),
        ("ex-09-repair", lambda energy, x, kappa, steps: energy(x), "return the image"),
        ("ex-09-repair", lambda energy, x, kappa, steps: x * 0, "rest position"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message, feedback.message
