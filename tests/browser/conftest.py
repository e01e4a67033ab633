"""Fixtures of the tests that need a browser."""

from reader import book, browser, visit_demo  # noqa: F401
