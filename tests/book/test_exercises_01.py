"""Typical answers to the exercises of chapter 1, and the hint that each must get."""

import math

import pytest
import torch

from ebmbook.exercises import check


def surprise(half=0.5, log_std=1.0, two_pi=1.0, sign=1, reduce="sum"):
    def answer(x, mean, std):
        z = (x - mean) / std
        total = half * z.square()
        total = total + log_std * std.log() + two_pi * 0.5 * math.log(2 * math.pi)
        if reduce == "all":
            return sign * total.sum()
        if reduce == "mean":
            return sign * total.mean((1, 2, 3))
        return sign * total.sum((1, 2, 3))

    return answer


def wrong_partition(x, mean, std):
    z = (x - mean) / std
    energy = 0.5 * z.square().sum((1, 2, 3))
    return energy - (std.log() + 0.5 * math.log(2 * math.pi)).sum()


def differences(test, train):
    return test[:, None] - train[None]  # (M, N, C, H, W)


def duplicates(test, train, tolerance):
    far = differences(test, train).abs().amax((2, 3, 4))
    return (far <= tolerance).any(1)


def exact(test, train, tolerance):
    return (differences(test, train) == 0).all(-1).all(-1).all(-1).any(1)


def as_floats(test, train, tolerance):
    return duplicates(test, train, tolerance).double().numpy()


def by_length(test, train, tolerance):
    return (torch.cdist(test.flatten(1), train.flatten(1)) <= tolerance).any(1)


def by_mean_difference(test, train, tolerance):
    far = differences(test, train).abs().mean((2, 3, 4))
    return (far <= tolerance).any(1)


def by_brightness(test, train, tolerance):
    far = differences(test.mean((1, 2, 3)), train.mean((1, 2, 3))).abs()
    return (far <= tolerance).any(1)


def signed(test, train, tolerance):
    return (differences(test, train).amax((2, 3, 4)) <= tolerance).any(1)


def signed_the_other_way(test, train, tolerance):
    return (differences(test, train).amin((2, 3, 4)) >= -tolerance).any(1)


def of_all(test, train, tolerance):
    far = differences(test, train).abs().amax((2, 3, 4))
    return (far <= tolerance).all(1)


def distances(test, train, tolerance):
    return differences(test, train).abs().amax((2, 3, 4)).amin(1)


def any_pixel(test, train, tolerance):
    near = differences(test, train).abs().amin((2, 3, 4)) <= tolerance
    return near.any(1)


def pairs(test, train, tolerance):
    return differences(test, train).abs().amax((2, 3, 4)) <= tolerance


def side_by_side(test, train, tolerance):
    far = (test[: len(train)] - train).abs().amax((1, 2, 3))
    return far <= tolerance


def all_but_one(test, train, tolerance):
    found = duplicates(test, train, tolerance)
    found[1] = False
    return found


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-01-surprise", surprise()),
        ("ex-01-duplicates", duplicates),
        ("ex-01-duplicates", as_floats),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-01-surprise", surprise(sign=-1), "the sign"),
        ("ex-01-surprise", surprise(reduce="mean"), "mean over pixels"),
        ("ex-01-surprise", surprise(reduce="all"), "one number per image"),
        ("ex-01-surprise", surprise(log_std=0, two_pi=0), "add log Z"),
        ("ex-01-surprise", surprise(two_pi=0), "half a log(2 pi)"),
        ("ex-01-surprise", surprise(two_pi=2), "*half* a log(2 pi)"),
        ("ex-01-surprise", surprise(two_pi=1 / 72), "*every* pixel"),
        ("ex-01-surprise", surprise(log_std=0), "log std of every pixel"),
        ("ex-01-surprise", surprise(log_std=2), "counts half"),
        ("ex-01-surprise", surprise(half=1), "factor 1/2"),
        ("ex-01-surprise", wrong_partition, "wrong sign"),
        ("ex-01-surprise", surprise(half=0.3), "the first image"),
        ("ex-01-surprise", lambda x, mean, std: "a lot", "your answer raised"),
        ("ex-01-duplicates", exact, "use the tolerance"),
        ("ex-01-duplicates", lambda x, y, _: duplicates(x, y, 0.02), "you are given"),
        ("ex-01-duplicates", lambda x, y, _: duplicates(x, y, 0.05), "you are given"),
        ("ex-01-duplicates", by_length, "not the length"),
        ("ex-01-duplicates", by_mean_difference, "the largest difference"),
        ("ex-01-duplicates", by_brightness, "pixel by pixel"),
        ("ex-01-duplicates", signed, "absolute difference"),
        ("ex-01-duplicates", signed_the_other_way, "absolute difference"),
        ("ex-01-duplicates", of_all, "any training image"),
        ("ex-01-duplicates", pairs, "reduce over the training images"),
        ("ex-01-duplicates", side_by_side, "each of the 7 test images"),
        ("ex-01-duplicates", distances, "yes or no"),
        ("ex-01-duplicates", lambda *a: ~duplicates(*a), "the other way round"),
        ("ex-01-duplicates", any_pixel, "some equal pixels"),
        ("ex-01-duplicates", all_but_one, "the answer should be"),
    ],
)
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message


def test_an_answer_as_a_list_is_accepted():
    as_list = check("ex-01-duplicates", lambda *args: duplicates(*args).tolist())
    assert as_list.correct
    # One image at a time, as a loop would give it.
    one_by_one = check(
        "ex-01-surprise",
        lambda x, mean, std: [float(surprise()(i[None], mean, std)) for i in x],
    )
    assert one_by_one.correct


def test_a_missing_answer_is_told_where_to_begin():
    for label in ("ex-01-surprise", "ex-01-duplicates"):
        assert str(check(label, lambda *args: None)).startswith("open. Begin with")
