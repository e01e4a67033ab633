"""Typical answers to the exercises of chapter 9, and the hint that each must get."""

import pytest
import torch

from ebmbook.exercises import check
from ebmlib.energy import input_gradient


def slope(scale=1.0, ahead=1.0, behind=1.0, unit=False, total=False):
    def answer(energy, x, d, h):
        d = d / d.norm(dim=1, keepdim=True) if unit else d
        rise = energy(x + ahead * h * d) - energy(x - behind * h * d)
        rise = rise.sum() if total else rise
        return scale * rise / ((ahead + behind) * h)

    return answer


def undivided(energy, x, d, h):
    return energy(x + h * d) - energy(x - h * d)


def along_each_pixel(energy, x, d, h):
    pixels = h * torch.eye(x.shape[1]).to(x)
    slopes = [energy(x + p) - energy(x - p) for p in pixels]
    return (torch.stack(slopes, 1) / (2 * h) * d).sum(1)


def without_parentheses(energy, x, d, h):
    return undivided(energy, x, d, h) / 2 * h


def there_and_back(energy, x, d, h):
    x += h * d
    ahead = energy(x)
    x -= 2 * h * d
    return (ahead - energy(x)) / (2 * h)


def by_autograd(energy, x, d, h):
    return (input_gradient(energy, x) * d).sum(1)


def repair(
    sign=-1.0, power=-1, count=lambda n: n, low=0, high=1, stale=False, short=False
):
    def answer(energy, x, kappa, steps):
        first = input_gradient(energy, x)
        for _ in range(count(steps)):
            gradient = first if stale else input_gradient(energy, x)
            step = kappa**power / (steps if short else 1)
            x = (x + sign * step * gradient).clamp(low, high)
        return x

    return answer


def clamped_at_last(energy, x, kappa, steps):
    return repair(low=-9, high=9)(energy, x, kappa, steps).clamp(0, 1)


def by_mean(energy, x, kappa, steps):
    for _ in range(steps):
        x = x.detach().requires_grad_()
        energy(x).mean().backward()
        x = (x - x.grad / kappa).clamp(0, 1)
    return x


def accumulated(energy, x, kappa, steps):
    """The gradient is never set to zero between the steps."""
    x = x.clone().requires_grad_()
    for _ in range(steps):
        energy(x).sum().backward()
        x.data = (x.data - x.grad / kappa).clamp(0, 1)
    return x.detach()


def unit_batch(energy, x, d, h):
    return slope()(energy, x, d / d.norm(), h)


def in_place(energy, x, kappa, steps):
    x -= input_gradient(energy, x) / kappa
    return x


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-09-difference", slope()),
        ("ex-09-repair", repair()),
        ("ex-09-repair", lambda *arguments: repair()(*arguments).double()),
    ],
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
        ("ex-09-difference", without_parentheses, "write / (2 * h)"),
        ("ex-09-difference", there_and_back, "changed its input"),
        ("ex-09-difference", along_each_pixel, "step along d itself"),
        (
            "ex-09-difference",
            lambda e, x, d, h: slope()(e, x.float(), d.float(), h),
            "close: the relative error",
        ),
        ("ex-09-difference", slope(behind=0.0), "one-sided"),
        ("ex-09-difference", slope(ahead=0.0), "one-sided"),
        ("ex-09-difference", slope(unit=True), "keep its length"),
        ("ex-09-difference", unit_batch, "of the whole batch"),
        ("ex-09-difference", slope(total=True), "one number per image"),
        ("ex-09-difference", lambda e, x, d, h: slope()(e, x, d, 1e-3), "exact slope"),
        ("ex-09-difference", lambda e, x, d, h: slope()(e, x, d, 0.3), "given"),
        ("ex-09-difference", by_autograd, "without autograd"),
        ("ex-09-difference", lambda energy, x, d, h: energy(x), "first image"),
        ("ex-09-difference", lambda energy, x, d, h: "steep", "raised"),
        ("ex-09-repair", repair(sign=1.0), "up the energy"),
        ("ex-09-repair", repair(power=0), "divide the gradient"),
        ("ex-09-repair", repair(power=1), "do not multiply"),
        ("ex-09-repair", repair(count=lambda n: 1), "only one step"),
        ("ex-09-repair", repair(count=lambda n: n - 1), "not range(1, steps)"),
        ("ex-09-repair", repair(count=lambda n: n + 1), "too many: range(steps)"),
        ("ex-09-repair", repair(count=lambda n: n + 2), "too many: range(steps)"),
        ("ex-09-repair", repair(count=lambda n: n // 2 + 1), "too few"),
        ("ex-09-repair", repair(count=lambda n: 10), "too many: range(steps)"),
        ("ex-09-repair", repair(short=True), "do not divide it by `steps`"),
        ("ex-09-repair", by_mean, "not their mean"),
        ("ex-09-repair", repair(stale=True), "take the gradient anew"),
        ("ex-09-repair", accumulated, "add up"),
        ("ex-09-repair", repair(low=-9, high=9), "clamp after each"),
        ("ex-09-repair", repair(low=-9), "at 0 and at 1"),
        ("ex-09-repair", repair(low=-1), "at 0 and at 1"),
        ("ex-09-repair", repair(high=9), "at 0 and at 1"),
        ("ex-09-repair", clamped_at_last, "after *each* step"),
        ("ex-09-repair", in_place, "changed its input"),
        ("ex-09-repair", lambda energy, x, kappa, steps: x, "unchanged"),
        (
            "ex-09-repair",
            lambda energy, x, kappa, steps: energy(x),
            "return the images",
        ),
        ("ex-09-repair", lambda energy, x, kappa, steps: x * 0, "rest position"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message, feedback.message
