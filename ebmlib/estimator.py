"""The error that an object raises before `fit` has been called."""

from __future__ import annotations


class NotFittedError(ValueError, AttributeError):
    """A result of `fit` was asked for before `fit` was called.

    It has the bases of `sklearn.exceptions.NotFittedError`.
    """
