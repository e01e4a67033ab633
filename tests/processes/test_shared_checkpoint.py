"""Several writers and readers of one checkpoint never meet a torn file."""

import threading
import time

import torch
from children import start

from ebmlib.checkpoint import read_checkpoint, write_checkpoint


def write_often(path, value, times=15):
    for _ in range(times):
        write_checkpoint(path, {"a": torch.full((20_000,), value)}, value, "test")


def test_writers_and_readers_of_one_path_never_meet_a_torn_file(tmp_path):
    """Two threads and another process write the path that this thread reads."""
    path, failures = tmp_path / "x.safetensors", []

    def guarded(value):
        try:
            write_often(path, value)
        except BaseException as error:
            failures.append(error)

    other = start(write_often, path, 3.0)
    while not path.exists() and other.is_alive():
        time.sleep(0.01)  # until it has begun
    writers = [threading.Thread(target=guarded, args=(v,)) for v in (1.0, 2.0)]
    for writer in writers:
        writer.start()
    found = []
    while other.is_alive() or any(writer.is_alive() for writer in writers):
        tensors, value = read_checkpoint(path, "test")
        assert (tensors["a"] == value).all()  # a torn file would mix the values
        found.append(value)
    for writer in writers:
        writer.join()
    assert failures == [] and other.exitcode == 0
    assert len(set(found)) > 1  # they did write at the same time
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
