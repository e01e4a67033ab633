"""Typical answers to the exercises of chapter 13, and the hint that each must get."""

import pytest
import torch

from ebmbook.exercises import check


def field(half=0.5, root=False, near=None, sum_=torch.sum, over=torch.amin):
    """A loop over cells; the arguments are natural mistakes."""
    near = near or (lambda i, j, k, m, r: max(abs(i - k), abs(j - m)) <= r)

    def answer(train, test, radius):
        _, _, rows, columns = train.shape
        found = torch.zeros(len(test), rows, columns)
        cells = [(i, j) for i in range(rows) for j in range(columns)]
        for i, j in cells:
            close = [(k, m) for k, m in cells if near(i, j, k, m, radius)]
            bank = torch.stack([train[:, :, k, m] for k, m in close], 1)  # (N, near, F)
            apart = (test[:, None, None, :, i, j] - bank).square()
            nearest = over(sum_(apart, -1).amin(2), 1)
            found[:, i, j] = half * (nearest.sqrt() if root else nearest)
        return found

    return answer


def by_distance_matrix(train, test, radius):
    """The same without a loop over images, rolled copies masked at the border."""
    rows, columns = train.shape[2:]
    padded = torch.nn.functional.pad(train, (radius,) * 4, value=1e6)
    best = torch.full((len(test), rows, columns), torch.inf)
    for i in range(2 * radius + 1):
        for j in range(2 * radius + 1):
            moved = padded[:, :, i : i + rows, j : j + columns]
            apart = (test[:, None] - moved[None]).square().sum(2) / 2
            best = torch.minimum(best, apart.amin(1))
    return best


def rolled(train, test, radius):
    steps = range(-radius, radius + 1)
    moved = torch.cat([train.roll((i, j), (2, 3)) for i in steps for j in steps])
    return (test[:, None] - moved[None]).square().sum(2).amin(1) / 2


def pull(factor=1.0, center=True, weigh=True, twice=False, reduce=torch.sum):
    """Autograd of the whole energy; the arguments are natural mistakes."""

    def answer(features, x, mean, precision):
        x = x.clone().requires_grad_()
        away = features(x)
        if center:
            away = away - mean[:, None, None]
        middle = precision @ precision if twice else precision
        other = torch.einsum("ab,nbhw->nahw", middle, away) if weigh else away
        energy = factor * reduce((away * other).sum(1), (1, 2)) / 2
        return torch.autograd.grad(energy.sum(), x)[0]

    return answer


def pulled_back(features, x, mean, precision):
    x = x.clone().requires_grad_()
    phi = features(x)
    push = torch.einsum("ab,nbhw->nahw", precision, phi - mean[:, None, None])
    return torch.autograd.grad(phi, x, push.detach())[0]


def sum_of_features(features, x, mean, precision):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(features(x).sum(), x)[0]


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-13-field", field()),
        ("ex-13-field", by_distance_matrix),
        ("ex-13-pull", pull()),
        ("ex-13-pull", pulled_back),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    feedback = check(label, answer)
    assert feedback.correct, feedback.message


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-13-field", field(half=1), "half of the squared"),
        ("ex-13-field", field(half=1, root=True), "this is the distance"),
        ("ex-13-field", field(root=True), "not half of the distance"),
        (
            "ex-13-field",
            field(near=lambda i, j, k, m, r: (i, j) == (k, m)),
            "the own cell only",
        ),
        ("ex-13-field", field(near=lambda i, j, k, m, r: True), "looks anywhere"),
        (
            "ex-13-field",
            field(near=lambda i, j, k, m, r: abs(i - k) + abs(j - m) <= r),
            "rows and columns separately",
        ),
        (
            "ex-13-field",
            field(near=lambda i, j, k, m, r: max(abs(i - k), abs(j - m)) < max(r, 1)),
            "own cell only",
        ),
        ("ex-13-field", field(sum_=torch.mean), "this is their mean"),
        ("ex-13-field", field(over=torch.mean), "not the mean over the images"),
        ("ex-13-field", rolled, "on the other side"),
        ("ex-13-field", lambda train, test, radius: test[:, 0], "the energy of cell"),
        ("ex-13-field", lambda train, test, radius: 1.0, "one patch energy per image"),
        ("ex-13-pull", pull(factor=2), "gradient of d^2"),
        ("ex-13-pull", pull(factor=-1), "sign is turned"),
        ("ex-13-pull", pull(weigh=False), "inverse covariance first"),
        ("ex-13-pull", pull(center=False), "the mean is missing"),
        ("ex-13-pull", pull(twice=True), "another energy"),
        ("ex-13-pull", pull(reduce=torch.mean), "not a mean"),
        ("ex-13-pull", sum_of_features, "sum of all features"),
        ("ex-13-pull", lambda *given: pull()(*given) / 3, "over the batch"),
        ("ex-13-pull", lambda *given: pull()(*given).abs(), "off by"),
        ("ex-13-pull", lambda features, x, mean, precision: 0.0, "return dE/dx"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message, feedback.message


@pytest.mark.parametrize("label", ["ex-13-field", "ex-13-pull"])
def test_an_odd_answer_does_not_crash(label):
    for odd in ("text", lambda *args: "text", lambda *args: float("nan")):
        assert not check(label, odd).correct


def test_an_answer_that_is_missing_is_open():
    for label in ("ex-13-field", "ex-13-pull"):
        assert check(label, lambda *args: None).message.startswith("open")
