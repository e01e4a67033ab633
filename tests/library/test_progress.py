"""Facts about the line of progress: where it appears, how often, and what it says."""

import io
import itertools

import pytest

from ebmlib.progress import LINES, Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a hundredth of a second at each look."""
    ticks = (0.01 * i for i in itertools.count())
    monkeypatch.setattr("ebmlib.progress.time.monotonic", lambda: next(ticks))


def run(bar, steps=1000, note="loss 0.5"):
    with bar:
        for step in range(1, steps + 1):
            bar.update(step, note)
    return bar.stream.getvalue()


@pytest.mark.parametrize(
    ("show", "stream", "written"),
    [
        (False, Terminal(), False),
        ("auto", Terminal(), True),
        (True, Terminal(), True),
        (False, io.StringIO(), False),
        ("auto", io.StringIO(), False),  # such as the stored output of a notebook
        (True, io.StringIO(), True),
    ],
)
def test_auto_means_in_a_terminal_only(show, stream, written):
    assert (run(Progress(50, show, stream=stream), 50) != "") == written


@pytest.mark.parametrize("total", [1, 7, 20, 1000, 12345])
def test_a_file_gets_few_lines_and_the_last_step(total):
    lines = run(Progress(total, True, stream=io.StringIO()), total).splitlines()
    assert len(lines) == min(total, LINES)
    assert f"{total}/{total}" in lines[-1] and "loss 0.5" in lines[-1]


def test_a_terminal_has_one_line_that_is_rewritten_a_few_times_a_second(clock):
    text = run(Progress(1000, stream=Terminal()))
    assert text.count("\n") == 1 and text.endswith("\n")
    updates = text.strip().split("\r")
    assert 35 < len(updates) < 46  # a little more than a thousand looks
    assert "1000/1000" in updates[-1] and "[####################]" in updates[-1]


def test_a_shorter_line_covers_a_longer_one(clock):
    stream = Terminal()
    with Progress(100, stream=stream) as bar:
        for step in range(1, 101):
            bar.update(step, "a long note" if step < 100 else "")
    before, last = stream.getvalue().rstrip("\n").split("\r")[-2:]
    assert len(last) == len(before) and last.rstrip().endswith("left")


def test_the_time_left_is_that_of_the_steps_that_remain(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ebmlib.progress.time.monotonic", lambda: now[0])
    bar = Progress(100, True, start=40, stream=io.StringIO())
    now[0] = 10.0  # twenty of the sixty steps in ten seconds
    bar.update(60)
    assert "60/100  0:10 elapsed, 0:20 left" in bar.stream.getvalue()


def test_the_line_fits_into_the_terminal(monkeypatch, clock):
    monkeypatch.setenv("COLUMNS", "40")
    text = run(Progress(30, stream=Terminal(), label="training"), 30, "x" * 100)
    assert all(len(line) < 40 for line in text.strip().split("\r"))
    assert "\rtraining [" in text


def test_a_stream_that_breaks_ends_the_display_only():
    stream = Terminal()
    with Progress(10, stream=stream) as bar:
        bar.update(1)
        stream.close()
        for step in range(2, 11):
            bar.update(step)


def test_no_stream_is_no_progress(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)  # as under pythonw
    with Progress(10, True) as bar:
        bar.update(1)


def test_a_resumed_run_that_is_finished_writes_nothing():
    assert run(Progress(10, True, start=10, stream=io.StringIO()), 0) == ""


def test_an_unknown_wish_is_refused():
    for show in ("yes", 2, None):
        with pytest.raises(ValueError, match="True, False or 'auto'"):
            Progress(10, show)


def test_durations():
    assert [duration(s) for s in (None, 0.4, 61, 3599.6, 7325)] == [
        "?",
        "0:00",
        "1:01",
        "1:00:00",
        "2:02:05",
    ]
