"""Fixtures of the library's tests."""

from second_device import second_device  # noqa: F401
