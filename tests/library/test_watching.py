"""A file of a watched folder is offered when it has stopped growing."""

import pytest

from ebmlib.data.watching import FolderWatch


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(tmp_path, clock):
    return FolderWatch(tmp_path, settle=1, patience=20, clock=clock)


def names(watch, done=()):
    return [path.name for path in watch.ready(done)]


def test_a_file_that_grows_is_not_offered(watch, clock, tmp_path):
    file = tmp_path / "a.png"
    for size in range(5):
        file.write_bytes(b"x" * size)
        assert names(watch) == []
        clock.now += 1
    assert names(watch) == ["a.png"]


def test_a_file_that_is_done_hidden_empty_or_no_image_is_not_offered(
    watch, clock, tmp_path
):
    for name in ("done.png", ".hidden.png", "notes.txt", "new.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder").mkdir()
    names(watch)
    clock.now = 2
    assert names(watch, {"done.png"}) == ["new.jpg"]


def test_what_cannot_be_read_is_tried_again_when_it_has_grown(watch, clock, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"half")
    names(watch)
    clock.now = 1
    assert names(watch) == ["a.png"] and not watch.gives_up("a.png")
    clock.now = 10
    assert names(watch) == []
    file.write_bytes(b"whole file")
    assert names(watch) == []
    clock.now = 11
    assert names(watch) == ["a.png"]


def test_what_stays_unreadable_is_given_up_after_its_patience(watch, clock, tmp_path):
    (tmp_path / "a.png").write_bytes(b"half")
    names(watch)
    clock.now = 1
    names(watch)
    assert not watch.gives_up("a.png")
    clock.now = 19
    assert names(watch) == []
    clock.now = 20
    assert names(watch) == ["a.png"] and watch.gives_up("a.png")


def test_the_last_change_is_known(watch, clock, tmp_path):
    clock.now = 5
    names(watch)
    assert watch.changed == 0
    (tmp_path / "a.png").write_bytes(b"x")
    names(watch)
    assert watch.changed == 5
