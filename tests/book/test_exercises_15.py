"""Typical answers to the exercises of chapter 15, and the hint that each must get."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binom

from ebmbook.exercises import check


def images(more=0, less=0, swap=False, below=False):
    def answer(rate, confidence, spare):
        miss = confidence if swap else 1 - confidence
        n, allowed = spare + 1, spare + more
        while binom.cdf(allowed, n, 1 - rate if below else rate) > miss:
            n += 1
        return n - less

    return answer


def by_beta(rate, confidence, spare):
    """The same by the tail of a Beta variable."""
    n = spare + 1
    while beta.sf(rate, spare + 1, n - spare) > 1 - confidence:
        n += 1
    return n


def queue(floor=0.0, own=False, inherit=True, period=True, done=False):
    def answer(times, gap):
        waits, gap = [0.0], gap if period else 0.0
        for i in range(1, len(times)):
            work = times[i] if own else times[i - 1]
            waits.append(max(floor, waits[-1] * inherit + work - gap))
        return np.array(waits) + (times if done else 0.0)

    return answer


def poured_first(times, period):
    left, waits = 0.0, []
    for work in times:
        left = max(0.0, left + work - period)
        waits.append(left)
    return waits


def in_place(times, period):
    times -= period
    return queue()(times, 0.0)


def changes(times, period):
    return np.append(0.0, times[:-1] - period)


def exactly(rate, confidence, spare):
    n = spare + 1
    while binom.pmf(spare, n, rate) > 1 - confidence:
        n += 1
    return n


def by_clock(times, period):
    """The same with the time at which the machine is free."""
    free, waits = 0.0, []
    for i, work in enumerate(times):
        start = max(free, i * period)
        waits.append(start - i * period)
        free = start + work
    return waits


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-15-images", images()),
        ("ex-15-images", by_beta),
        ("ex-15-queue", queue()),
        ("ex-15-queue", by_clock),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


@pytest.mark.parametrize("spare, n", [(0, 59), (1, 93), (2, 124)])
def test_the_classical_sample_sizes(spare, n):
    assert images()(0.05, 0.95, spare) == n


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-15-images", lambda r, c, s: math.ceil((s + 1) / r) - 1, "on average"),
        ("ex-15-images", images(swap=True), "not confidence"),
        ("ex-15-images", images(less=1), "one image too few"),
        ("ex-15-images", images(less=-1), "one image too many"),
        ("ex-15-images", exactly, "not binom.pmf"),
        ("ex-15-images", images(more=1), "largest score itself"),
        ("ex-15-images", images(more=-1), "`spare` included"),
        ("ex-15-images", lambda r, c, s: images()(r, c, 0), "`spare` is ignored"),
        ("ex-15-images", images(below=True), "not below"),
        ("ex-15-images", lambda r, c, s: 7, "it should be 153, got 7"),
        ("ex-15-queue", queue(floor=-np.inf), "cannot be negative"),
        ("ex-15-queue", poured_first, "one part too late"),
        ("ex-15-queue", in_place, "changed its input"),
        ("ex-15-queue", lambda t, p: changes(t, p).cumsum().clip(0), "in each step"),
        ("ex-15-queue", lambda t, p: changes(t, p).clip(0).cumsum(), "each of its"),
        ("ex-15-queue", queue(own=True), "not for its own"),
        ("ex-15-queue", queue(done=True), "until a part is done"),
        ("ex-15-queue", queue(inherit=False), "passed on"),
        ("ex-15-queue", queue(period=False), "one period later"),
        ("ex-15-queue", lambda t, p: t[1:], "one wait for each of 60"),
        ("ex-15-queue", lambda t, p: 0 * t, "should wait"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message


@pytest.mark.parametrize("label", ["ex-15-images", "ex-15-queue"])
def test_an_odd_answer_does_not_crash(label):
    for odd in ("text", lambda *args: "text", lambda *args: float("nan")):
        assert not check(label, odd).correct
