"""Settings of all library tests."""

import browser as shared_browser
import pytest
import torch
from reader import book, visit_demo  # noqa: F401  (fixtures of the demos' tests)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests run side by side; more threads than cores only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium for the tests of pages and demos; see tests/browser.py."""
    lacks = shared_browser.missing()
    if lacks and not shared_browser.REQUIRED:
        pytest.skip(f"needs {lacks}")
    assert not lacks, f"these tests may not be skipped here, and need {lacks}"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = shared_browser.launch(playwright)
        yield running
        running.close()
