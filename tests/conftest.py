"""Settings of all tests, and a marker for each folder."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests run side by side; more threads than cores only wait for each other."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Mark each test by its folder: `library`, `processes`, `book` or `browser`."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(item.path.relative_to(here).parts[0])
