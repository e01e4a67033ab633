"""Another process draws the same images, whatever the order of its sets is."""

import hashlib

from children import ask

from ebmlib.data.synthetic import CATEGORIES, make


def digests():
    """SHA-256 of all that `make` returns, for each category."""
    found = {}
    for category in CATEGORIES:
        data = make(category, size=48, n_train=4, n_test=2, n_defective=1)
        parts = (data.train, data.test, data.masks, data.labels)
        joined = b"".join(part.numpy().tobytes() for part in parts)
        found[category] = hashlib.sha256(joined).hexdigest()
    return found


def test_another_process_draws_the_same_bytes():
    here, there = digests(), ask(digests)
    assert here == there and list(here) == list(CATEGORIES)
