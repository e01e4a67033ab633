"""Judges of the exercises of chapter 6, convolutional energies."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import ask, number, pair

Layers = list[tuple[int, int, int, int]]  # kernel, stride, dilation, padding

NETWORKS: tuple[tuple[Layers, int], ...] = (
    ([(4, 2, 1, 1)] * 4, 4),
    ([(4, 2, 1, 1)] * 2 + [(3, 1, 1, 1), (3, 1, 2, 2), (3, 1, 2, 2)], 7),
    ([(5, 1, 1, 2), (3, 3, 1, 0), (3, 1, 2, 1), (2, 2, 1, 0)], 5),
    ([(4, 2, 1, 1)] * 3, 0),  # the window begins outside of the image
)


def _window(layers: Layers, i: int) -> tuple[int, int]:
    """First and last pixel that cell i of the last layer sees."""
    first, last = i, i
    for kernel, stride, dilation, padding in reversed(layers):
        first = stride * first - padding
        last = stride * last - padding + dilation * (kernel - 1)
    return first, last


def _plain_padding(layers: Layers, i: int) -> tuple[int, int]:
    """The mistake of adding up the paddings without their jumps."""
    right = _window([(k, s, d, 0) for k, s, d, _ in layers], i)
    pad = sum(p for *_, p in layers)
    return right[0] - pad, right[1] - pad


def _late_jump(layers: Layers, i: int) -> tuple[int, int]:
    """The mistake of multiplying the jump by the stride before using it."""
    side, jump, reach = 1, 1, 0
    for kernel, stride, dilation, padding in layers:
        jump *= stride
        side += (kernel - 1) * dilation * jump
        reach += padding * jump
    return i * jump - reach, i * jump - reach + side - 1


def _centered(layers: Layers, i: int) -> tuple[int, int]:
    """The mistake of laying the window around the cell's number times the jump."""
    first, last = _window(layers, 0)
    jump, reach = 1, (last - first) // 2
    for _, stride, *_ in layers:
        jump *= stride
    return i * jump - reach, i * jump - reach + last - first


def _judge_window(window) -> str:
    right = [_window(*case) for case in NETWORKS]
    found = []
    for layers, i in NETWORKS:
        answer = window(list(layers), i)
        first, last = pair(answer, "the first and the last pixel")
        found.append((number(first), number(last)))
    mistakes = {
        "the last pixel is inclusive; yours is one too far.": [
            (a, b + 1) for a, b in right
        ],
        "the second number is the last pixel, not the side of the window.": [
            (a, b - a + 1) for a, b in right
        ],
        "padding is missing: it moves the whole window to smaller numbers.": [
            _window([(k, s, d, 0) for k, s, d, _ in layers], i)
            for layers, i in NETWORKS
        ],
        "padding moves the window to smaller numbers: subtract it.": [
            _window([(k, s, d, -p) for k, s, d, p in layers], i)
            for layers, i in NETWORKS
        ],
        "padding counts cells of the layer below: multiply it by their jump.": [
            _plain_padding(*case) for case in NETWORKS
        ],
        "dilation is missing: the window's cells lie d apart, so d (k - 1).": [
            _window([(k, s, 1, p) for k, s, _, p in layers], i)
            for layers, i in NETWORKS
        ],
        "a kernel of k cells spans k - 1 steps, not k.": [
            _window([(k + 1, s, d, p) for k, s, d, p in layers], i)
            for layers, i in NETWORKS
        ],
        "a dilated kernel reaches d (k - 1) cells further, not d k.": [
            _window([(k + (d > 1), s, d, p) for k, s, d, p in layers], i)
            for layers, i in NETWORKS
        ],
        "a dilated kernel reaches d (k - 1) cells further, not d k - 1.": [
            _window([(d * k, s, 1, p) for k, s, d, p in layers], i)
            for layers, i in NETWORKS
        ],
        "with padding a window may begin before pixel 0; do not clamp it.": [
            (max(a, 0), b) for a, b in right
        ],
        "the window of cell 0 begins where the padding says; it is not centered.": [
            _centered(*case) for case in NETWORKS
        ],
        "go from the last layer down; the order of the layers matters.": [
            _window(layers[::-1], i) for layers, i in NETWORKS
        ],
        "the jump below a layer does not contain that layer's own stride.": [
            _late_jump(*case) for case in NETWORKS
        ],
    }
    if found == right:
        return "The same rule that the gradient measured."
    for hint, wrong in mistakes.items():
        if found == wrong:
            raise Hint(hint)
    at = next(n for n, pair in enumerate(found) if pair != right[n])
    layers, i = NETWORKS[at]
    raise Hint(f"for {layers}, cell {i}, expected {right[at]}, got {found[at]}.")


def _correlate(x: Tensor, delta: Tensor, kernel: int, stride: int) -> Tensor:
    """The gradient of a convolution in its kernel."""
    h, w = delta.shape[-2:]
    answer = torch.zeros(delta.shape[1], x.shape[1], kernel, kernel)
    for a in range(kernel):
        for b in range(kernel):
            rows = slice(a, a + stride * (h - 1) + 1, stride)
            columns = slice(b, b + stride * (w - 1) + 1, stride)
            pixels = x[:, :, rows, columns]
            answer[:, :, a, b] = torch.einsum("bohw,bchw->oc", delta, pixels)
    return answer


def _judge_kernel(kernel_gradient) -> str:
    g = torch.Generator().manual_seed(6)
    x = torch.randn(3, 2, 10, 14, generator=g)
    delta = torch.randn(3, 5, 4, 6, generator=g)
    try:
        with torch.no_grad():
            got = ask(kernel_gradient, x, delta, 4, 2)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise Hint(
            "no autograd here: it is switched off. Sum the products by yourself."
        ) from error
    right = _correlate(x, delta, 4, 2)  # (5, 2, 4, 4)
    if not isinstance(got, Tensor):
        raise Hint(f"return a tensor, not {type(got).__name__}.")
    if got.shape == (2, 5, 4, 4):
        raise Hint("the first two axes are exchanged; the shape is (O, C, k, k).")
    if got.shape == (3, 5, 2, 4, 4):
        raise Hint("sum over the images of the batch: they share one kernel.")
    if got.shape != right.shape:
        raise Hint(f"the shape must be (O, C, k, k) = (5, 2, 4, 4), got {got.shape}.")
    mistakes = {
        "this is the mean over the batch; the loss sums over images already.": right
        / 3,
        "this is the mean over positions; the loss sums over them.": right / 24,
        "this is the mean over images and positions; sum over both.": right / 72,
        "the sign is wrong: nothing here is negated.": -right,
        "the kernel is flipped; the forward pass reads s p + (a, b).": right.flip(2, 3),
        "rows and columns of the kernel are exchanged.": right.transpose(2, 3),
        "the stride is missing: neighboring windows lie s pixels apart.": _correlate(
            x, delta, 4, 1
        ),
        "only the first image was used; sum over the batch.": _correlate(
            x[:1], delta[:1], 4, 2
        ),
        "only the last image is left; add up with +=.": _correlate(
            x[-1:], delta[-1:], 4, 2
        ),
    }
    if torch.allclose(got.float(), right, rtol=1e-3, atol=1e-3):
        return "Input correlated with the error: that is all that training needs."
    for hint, wrong in mistakes.items():
        if torch.allclose(got.float(), wrong, rtol=1e-3, atol=1e-3):
            raise Hint(hint)
    worst = float((got - right).abs().max())
    raise Hint(f"the largest difference from autograd is {worst:.2f}.")


EXERCISES = {
    "ex-06-window": Exercise(
        _judge_window, "Begin with one layer: which cells below does cell i read?"
    ),
    "ex-06-kernel": Exercise(
        _judge_kernel, "Which pixels does one entry of the kernel multiply?"
    ),
}
