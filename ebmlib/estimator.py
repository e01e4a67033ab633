"""The contract of every detector and baseline: parameters, fitted state, errors.

The rules are scikit-learn's. The constructor checks its arguments and stores them
unchanged; `fit` never writes them. What `fit` finds is stored in attributes that end in
`_`, all at once and at its end, so that a `fit` that fails or is stopped leaves the
object as it was. `sklearn.base.clone` works; scikit-learn is not imported here.
"""

from __future__ import annotations

import difflib
import inspect
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor

from ebmlib.data.images import Images


class NotFittedError(ValueError, AttributeError):
    """A result of `fit` was asked for before `fit` was called.

    It has the bases of `sklearn.exceptions.NotFittedError`, so `except ValueError`
    catches it and `hasattr` treats it as a missing attribute.
    """


@runtime_checkable
class AnomalyDetector(Protocol):
    """What a detector of anomalies offers; `EnergyDetector` and all baselines do.

    Images: whatever `ebmlib.data.images.images_to_tensor` accepts.
    """

    def fit(self, images: Images) -> Self:
        """The object itself, fitted on normal images; any earlier fit is replaced."""

    def anomaly_score(self, images: Images) -> Tensor:
        """One number per image, (N,) on the CPU, higher for more anomalous."""

    def anomaly_map(self, images: Images) -> Tensor:
        """One number per pixel, (N, H, W) on the CPU, higher for more anomalous."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name."""


class Estimator:
    """Parameters, `repr` and fitted state, for a class that `fit` is defined in.

    The parameters are the arguments of the subclass' constructor, which must store each
    of them, unchanged, in an attribute of the same name. At its end `fit` calls
    `_set_fitted`.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name.

        Args:
            deep: also list the parameters of arguments that have parameters
                themselves, as `"<argument>__<parameter>"`.

        Raises:
            TypeError: the constructor takes `*args` or `**kwargs`.
        """
        params = {name: getattr(self, name) for name in _defaults(type(self))}
        if deep:
            for name, value in list(params.items()):
                if _has_params(value):
                    inner = value.get_params(deep=True)
                    params |= {f"{name}__{key}": item for key, item in inner.items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """The object itself with other parameters, which the constructor has checked.

        What an earlier `fit` found stays; call `fit` again for it to follow. An
        argument that has parameters itself is replaced by a changed copy.

        Args:
            **params: by the names of `get_params(deep=True)`.

        Raises:
            ValueError: an unknown name, or a value that the constructor refuses; then
                nothing is changed.
        """
        merged = self.get_params(deep=False)
        inner: dict[str, dict[str, Any]] = {}
        for key, value in params.items():
            name, nested, rest = key.partition("__")
            if name not in merged or (nested and not _has_params(merged[name])):
                raise ValueError(self._unknown(key))
            if nested:
                inner.setdefault(name, {})[rest] = value
            else:
                merged[name] = value
        for name, changes in inner.items():
            copy = type(merged[name])(**merged[name].get_params(deep=False))
            merged[name] = copy.set_params(**changes)
        type(self)(**merged)  # raises on values out of range
        vars(self).update(merged)
        return self

    def check_fitted(self) -> None:
        """Refuse an object that is not fitted.

        Raises:
            NotFittedError: `fit` has not been called, or has never come to its end.
        """
        if not any(map(_is_fitted_name, vars(self))):
            name = type(self).__name__
            raise NotFittedError(
                f"{name} is not fitted yet: call fit(normal_images) first"
            )

    def _set_fitted(self, **found: Any) -> None:
        """Replace all results of an earlier `fit` by `found`, in one assignment."""
        wrong = [name for name in found if not _is_fitted_name(name)]
        if wrong:
            raise TypeError(f"names of fitted attributes must end in _, got {wrong}")
        kept = {k: v for k, v in vars(self).items() if not _is_fitted_name(k)}
        self.__dict__ = kept | found

    def _unknown(self, key: str) -> str:
        known = sorted(self.get_params(deep=True))
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        return (
            f"{type(self).__name__} has no parameter {key!r}{hint} "
            f"Its parameters are {', '.join(known) or 'none'}."
        )

    def __repr__(self) -> str:
        """The constructor call that makes this object; default arguments left out."""
        values = self.get_params(deep=False).items()
        defaults = _defaults(type(self))
        shown = [f"{k}={v!r}" for k, v in values if repr(v) != repr(defaults[k])]
        return f"{type(self).__name__}({', '.join(shown)})"


def _defaults(kind: type) -> dict[str, Any]:
    """Names and defaults of a constructor's arguments."""
    parameters = inspect.signature(kind).parameters.values()
    for one in parameters:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            raise TypeError(
                f"{kind.__name__}.__init__ takes {one}; the constructor of an "
                "Estimator must name every argument"
            )
    return {one.name: one.default for one in parameters}


def _has_params(value: Any) -> bool:
    return hasattr(value, "get_params") and not isinstance(value, type)


def _is_fitted_name(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_")
