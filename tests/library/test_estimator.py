"""Facts about the contract: parameters are kept, fits are replaced as a whole."""

import copy
import pickle

import pytest
import sklearn.exceptions
from sklearn.base import clone

from ebmlib.estimator import Estimator, NotFittedError


class Recipe(Estimator):
    def __init__(self, steps=100, width=8):
        if steps < 1:
            raise ValueError(f"steps must be >= 1, got {steps}")
        self.steps, self.width = steps, width


class Detector(Estimator):
    def __init__(self, recipe, size=64, *, names=("a", "b"), level=None):
        self.recipe, self.size, self.names, self.level = recipe, size, names, level

    def fit(self, images):
        found = [image * 2 for image in images]
        extra = {"second_": found[1]} if len(found) > 1 else {}
        self._set_fitted(first_=found[0], **extra)
        return self


class Sloppy(Estimator):
    def __init__(self, **options):
        self.options = options


def test_parameters_are_the_arguments_of_the_constructor():
    recipe = Recipe(3)
    made = Detector(recipe, level=0.5)
    shallow = {"recipe": recipe, "size": 64, "names": ("a", "b"), "level": 0.5}
    assert made.get_params(deep=False) == shallow
    inner = {"recipe__steps": 3, "recipe__width": 8}
    assert made.get_params() == shallow | inner
    assert Estimator().get_params() == {}


def test_repr_is_a_call_that_makes_the_same_object():
    made = Detector(Recipe(steps=3), level=0.5)
    assert repr(made) == "Detector(recipe=Recipe(steps=3), level=0.5)"
    assert (
        eval(repr(made)).get_params(deep=False).keys() == made.get_params(False).keys()
    )
    assert repr(Recipe()) == "Recipe()"


def test_scikit_learn_clones_and_the_clone_is_not_fitted():
    names = ["c"]
    made = Detector(Recipe(3), names=names).fit([1])
    twin = clone(made)
    assert repr(twin) == repr(made)
    assert twin.recipe is not made.recipe
    with pytest.raises(NotFittedError, match=r"Detector is not fitted yet: call fit"):
        twin.check_fitted()


def test_set_params_reaches_inside_and_leaves_a_shared_argument_alone():
    recipe = Recipe()
    first, second = Detector(recipe), Detector(recipe)
    assert first.set_params(recipe__steps=7, size=32) is first
    assert (first.recipe.steps, first.recipe.width, first.size) == (7, 8, 32)
    assert second.recipe.steps == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sizes": 3},
            r"no parameter 'sizes'; did you mean 'size'\?.* are level, names",
        ),
        ({"recipe__step": 3}, "no parameter 'step'; did you mean 'steps'"),
        ({"size__steps": 3}, "no parameter 'size__steps'"),
        ({"recipe__steps": 0}, "steps must be >= 1, got 0"),
    ],
)
def test_a_wrong_parameter_changes_nothing(changes, message):
    made = Detector(Recipe())
    before = repr(made)
    with pytest.raises(ValueError, match=message):
        made.set_params(level=2, **changes)
    assert repr(made) == before


def test_a_value_that_the_constructor_refuses_is_refused():
    made = Recipe()
    with pytest.raises(ValueError, match="steps must be >= 1, got -3"):
        made.set_params(width=3, steps=-3)
    assert repr(made) == "Recipe()"


def test_a_second_fit_leaves_nothing_of_the_first():
    made = Detector(Recipe()).fit([1, 2])
    assert (made.first_, made.second_) == (2, 4)
    made.fit([5])
    assert made.first_ == 10 and not hasattr(made, "second_")


def test_a_fit_that_fails_leaves_the_object_as_it_was():
    made = Detector(Recipe()).fit([1, 2])
    before = dict(vars(made))
    with pytest.raises(TypeError):
        made.fit([1, None])
    assert vars(made) == before
    with pytest.raises(TypeError, match=r"must end in _, got \['mean'\]"):
        made._set_fitted(mean=3)


def test_copies_and_pickles_stay_fitted():
    made = Recipe(5)
    made._set_fitted(found_=3)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        twin.check_fitted()
        assert (repr(twin), twin.found_) == ("Recipe(steps=5)", 3)


def test_the_error_has_the_bases_of_scikit_learns():
    ours, theirs = NotFittedError.__bases__, sklearn.exceptions.NotFittedError.__bases__
    assert ours == theirs


def test_a_constructor_must_name_its_arguments():
    with pytest.raises(TypeError, match=r"Sloppy.__init__ takes \*\*options"):
        Sloppy(a=1).get_params()
