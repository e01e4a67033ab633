"""Settings of all library tests."""

import pytest
import torch
from reader import book, browser, visit_demo  # noqa: F401  (browser tests' fixtures)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests run side by side; more threads than cores only wait for each other."""
    torch.set_num_threads(1)
