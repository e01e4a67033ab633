"""Typical answers to the exercises of chapter 6, and the hint that each must get."""

import math

import pytest
import torch

from ebmbook.exercises import check


def window(extra=0, padding=True, dilation=True, span=1, order=-1, side=False):
    def answer(layers, i):
        first, last = i, i
        for kernel, stride, d, p in layers[::order]:
            p, d = p * padding, d if dilation else 1
            first = stride * first - p
            last = stride * last - p + d * (kernel - span)
        return first, last - first + 1 if side else last + extra

    return answer


def clamped(layers, i):
    first, last = window()(layers, i)
    return max(first, 0), last


def wide_dilation(layers, i):
    wider = [(k + 1 if d > 1 else k, s, d, p) for k, s, d, p in layers]
    return window()(wider, i)


def short_dilation(layers, i):
    return window()([(d * k, s, 1, p) for k, s, d, p in layers], i)


def added_padding(layers, i):
    return window()([(k, s, d, -p) for k, s, d, p in layers], i)


def three_numbers(layers, i):
    return *window()(layers, i), 7


def centered(layers, i):
    first, last = window()(layers, 0)
    start = i * math.prod(s for _, s, *_ in layers) - (last - first) // 2
    return start, start + last - first


def jumps(late=False, pad_jump=True):
    def answer(layers, i):
        side, jump, reach = 1, 1, 0
        for kernel, stride, dilation, padding in layers:
            jump *= stride if late else 1
            side += (kernel - 1) * dilation * jump
            reach += padding * (jump if pad_jump else 1)
            jump *= 1 if late else stride
        return i * jump - reach, i * jump - reach + side - 1

    return answer


def kernel_gradient(change=lambda answer: answer, images=None, unit_stride=False):
    def answer(x, delta, kernel, stride):
        stride = 1 if unit_stride else stride
        x, delta = x[:images], delta[:images]
        h, w = delta.shape[-2:]
        pieces = [
            torch.einsum(
                "bohw,bchw->oc",
                delta,
                x[:, :, a:, b:][:, :, ::stride, ::stride][:, :, :h, :w],
            )
            for a in range(kernel)
            for b in range(kernel)
        ]
        total = torch.stack(pieces, -1).unflatten(-1, (kernel, kernel))
        return change(total)

    return answer


def last_image(x, delta, kernel, stride):
    return kernel_gradient()(x[-1:], delta[-1:], kernel, stride)


def by_autograd(x, delta, kernel, stride):
    weight = torch.zeros(delta.shape[1], x.shape[1], kernel, kernel)
    weight.requires_grad_()
    z = torch.nn.functional.conv2d(x, weight, stride=stride)
    return torch.autograd.grad((z * delta).sum(), weight)[0]


@pytest.mark.parametrize(
    "label, answer",
    [
        ("ex-06-window", window()),
        ("ex-06-window", jumps()),
        ("ex-06-kernel", kernel_gradient()),
    ],
)
def test_the_right_answer_is_accepted(label, answer):
    assert check(label, answer).correct


@pytest.mark.parametrize(
    "label, answer, hint",
    [
        ("ex-06-window", window(extra=1), "inclusive"),
        ("ex-06-window", window(side=True), "not the side"),
        ("ex-06-window", window(padding=False), "padding is missing"),
        ("ex-06-window", window(dilation=False), "dilation is missing"),
        ("ex-06-window", window(span=0), "spans k - 1"),
        ("ex-06-window", window(order=1), "order of the layers"),
        ("ex-06-window", clamped, "do not clamp"),
        ("ex-06-window", wide_dilation, "not d k"),
        ("ex-06-window", short_dilation, "not d k - 1"),
        ("ex-06-window", added_padding, "subtract it"),
        ("ex-06-window", three_numbers, "return two numbers"),
        ("ex-06-window", centered, "not centered"),
        ("ex-06-window", jumps(pad_jump=False), "multiply it by their jump"),
        ("ex-06-window", jumps(late=True), "own stride"),
        ("ex-06-window", lambda layers, i: (0, 9), "expected"),
        ("ex-06-window", lambda layers, i: 9, "two numbers"),
        ("ex-06-kernel", kernel_gradient(lambda x: x / 3), "mean over the batch"),
        ("ex-06-kernel", kernel_gradient(lambda x: x / 24), "over positions"),
        ("ex-06-kernel", kernel_gradient(lambda x: x / 72), "images and positions"),
        ("ex-06-kernel", kernel_gradient(lambda x: -x), "sign"),
        ("ex-06-kernel", kernel_gradient(lambda x: x.flip(2, 3)), "flipped"),
        ("ex-06-kernel", kernel_gradient(lambda x: x.mT), "rows and columns"),
        ("ex-06-kernel", kernel_gradient(lambda x: x.transpose(0, 1)), "exchanged"),
        ("ex-06-kernel", kernel_gradient(lambda x: x[0]), "shape must be"),
        ("ex-06-kernel", kernel_gradient(images=1), "only the first image"),
        ("ex-06-kernel", last_image, "only the last image"),
        ("ex-06-kernel", by_autograd, "no autograd"),
        ("ex-06-kernel", kernel_gradient(unit_stride=True), "stride is missing"),
        ("ex-06-kernel", kernel_gradient(lambda x: x[None].expand(3, -1, -1, -1, -1)),
         "share one kernel"),
        ("ex-06-kernel", kernel_gradient(torch.zeros_like), "largest difference"),
        ("ex-06-kernel", kernel_gradient(lambda x: x.tolist()), "return a tensor"),
        ("ex-06-kernel", lambda x, delta, kernel, stride: kernel_gradient()(
            x.mul_(1.5), delta, kernel, stride), "changed its input"),
    ],
)  # fmt: skip
def test_a_typical_mistake_gets_its_hint(label, answer, hint):
    feedback = check(label, answer)
    assert not feedback.correct
    assert hint in feedback.message
