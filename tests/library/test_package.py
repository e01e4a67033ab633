"""Facts about the package: what `import ebmlib` offers."""

import importlib

import pytest

import ebmlib


@pytest.mark.parametrize("name", ebmlib.__all__)
def test_each_public_name_is_the_one_of_its_file(name):
    value = getattr(ebmlib, name)
    assert getattr(importlib.import_module(value.__module__), name) is value
    assert value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Detector'"):
        _ = ebmlib.Detector
