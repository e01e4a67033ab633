"""Judges of the exercises of chapter 3, Langevin sampling."""

from __future__ import annotations

import math

import torch

from ebmbook.exercises import Exercise, Hint
from ebmbook.exercises.answers import ask, number, reject_near_miss


def _noise(unbiased_noise) -> str:
    for step, curvature, temperature in ((0.3, 2.0, 0.6), (0.1, 5.0, 3.0)):
        value = number(unbiased_noise(step, curvature, temperature))
        product = step * curvature
        square = temperature * step * (2 - product)
        for wrong, hint in (
            (square, "this is the variance of the noise; take its root."),
            (math.sqrt(square / temperature), "the temperature is missing."),
            (
                math.sqrt(2 * step * temperature),
                "sqrt(2 eps T) is right only as the step goes to 0; yours is finite.",
            ),
            (
                math.sqrt(temperature * step * (2 + product)),
                "1 - (1 - p)^2 with p = eps lambda is p (2 - p), with a minus.",
            ),
            (
                math.sqrt(square * curvature),
                "the variance should be T / lambda, not T.",
            ),
            (
                math.sqrt(temperature * step),
                "variances shrink by rho^2 in a step, not by rho.",
            ),
        ):
            if math.isclose(value, wrong, rel_tol=1e-6):
                raise Hint(hint)
        if not math.isclose(value, math.sqrt(square), rel_tol=1e-6):
            reject_near_miss(value, math.sqrt(square), 1e-6)
            raise Hint(
                f"for step {step}, curvature {curvature} and temperature {temperature} "
                f"it is {math.sqrt(square):.4f}, got {value:.4f}."
            )
    return "On this one energy the step has no bias left."


def _size(effective_size) -> str:
    n = 20_000
    g = torch.Generator().manual_seed(11)
    # rho = 0.8: an AR(1) chain as a truncated sum of its noise, without a loop.
    xi = torch.randn(n + 199, generator=g, dtype=torch.float64)
    weights = 0.8 ** torch.arange(200, dtype=torch.float64)
    chain = torch.nn.functional.conv1d(xi[None, None], weights.flip(0)[None, None])
    path = 5.0 + 2.0 * chain[0, 0]  # (n,), mean 5, far from unit variance
    offset = path - path.mean()
    variance = float(offset.var())

    def total(x, lags):
        return sum(float((x[k:] * x[:-k]).mean()) for k in range(1, lags + 1))

    def steps(lags):
        return 1 + 2 * total(offset, lags) / variance

    # With two lags each slip shows; with 60 the last lags hardly count.
    for lags, tolerance in ((2, 0.005), (60, 0.02)):
        value, right = number(ask(effective_size, path, lags)), steps(lags)
        if math.isclose(value, n / right, rel_tol=tolerance):
            continue
        if lags == 60:
            raise Hint(
                f"right for 2 lags, but for 60 it is {n / right:.0f}, got {value:.0f}: "
                "add all of them, without stopping early."
            )
        raw = total(path, lags)
        for wrong, hint in (
            (n / (right / 2 + 0.5), "each lag counts twice: before and after."),
            (n / (right + 2), "the sum begins at lag 1; lag 0 is the 1 before it."),
            (n / (right - 1), "the 1 in 1 + 2 sum is missing."),
            (
                n / (1 + 2 * raw / float(path.square().mean())),
                "subtract the mean of the path first.",
            ),
            (n / (1 + 2 * raw / variance), "subtract the mean of the path first."),
            (
                n / (1 + 2 * total(offset, lags)),
                "divide by the variance: correlations.",
            ),
            (right, "this is how many steps one sample takes; divide n by it."),
            (n * right, "correlated samples are worth less; divide n by the sum."),
        ):
            if math.isclose(value, wrong, rel_tol=tolerance):
                raise Hint(hint)
        if math.isclose(value, n, rel_tol=tolerance):
            raise Hint("with lags = 2 no lag was summed: range(1, lags + 1).")
        if math.isclose(value, n / steps(1), rel_tol=tolerance):
            raise Hint("the last lag is missing: range(1, lags + 1).")
        if any(math.isclose(value, n / steps(k), rel_tol=1e-3) for k in range(100)):
            raise Hint(f"the sum goes from 1 to `lags`, here {lags}: no lag more.")
        raise Hint(
            f"for our path and {lags} lags it is {n / right:.0f}, got {value:.0f}."
        )
    return (
        f"estimated from the path: {n / right:.0f} samples; exactly, from the chain's "
        f"equation, {n / 9:.0f}."
    )


EXERCISES = {
    "ex-03-noise": Exercise(
        _noise, "Solve noise^2 / (1 - rho^2) = T / lambda with rho = 1 - eps lambda."
    ),
    "ex-03-ess": Exercise(
        _size, "Begin with offset = path - path.mean(), then offset[k:] * offset[:-k]."
    ),
}
