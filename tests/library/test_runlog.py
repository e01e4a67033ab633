"""Facts about the log: columns that read like lists, and rows that can be undone."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch

from ebmlib.runlog import EVENTS, Column, TrainingLog


def log_of(rows, **extra):
    log = TrainingLog()
    for i in range(rows):
        log.add(i + 1, {"loss": 0.1 * i, "gap": -float(i), **extra})
    return log


def test_a_column_reads_like_a_list():
    numbers = [0.1, -0.0, 1e-300, float("inf"), 5.0]
    column = Column()
    for number in numbers:
        column.append(number)
    assert column == numbers and numbers == column and column != numbers[:4]
    assert len(column) == 5 and column[1] == 0 and column[-1] == 5
    assert column[1:3] == numbers[1:3] and column[::-1] == numbers[::-1]
    assert type(column[:2]) is list and type(column[0]) is float
    assert [*column] == [*reversed([*reversed(column)])] == numbers
    assert max(column) == float("inf") and 5.0 in column and column.index(5.0) == 4
    assert [*zip(column, numbers, strict=True)] == [(n, n) for n in numbers]
    with pytest.raises(IndexError):
        column[5]
    assert not Column() and repr(Column([1.0, 2.0])) == "[1.0, 2.0]"
    assert len(repr(Column([1.5] * 100_000))) < 80


def test_a_column_becomes_an_array_or_a_tensor():
    log = log_of(20)
    loss = np.array(log.health["loss"])
    assert loss.dtype == np.float64 and (loss == log.health["loss"][:]).all()
    assert np.array(log.steps).dtype == np.int64
    assert np.asarray(log.health["loss"], dtype=np.float32).dtype == np.float32
    assert np.mean(log.health["gap"]) == -9.5
    both = torch.tensor([log.health["loss"], log.health["gap"]])
    assert both.shape == (2, 20) and both.dtype == torch.float32
    torch.testing.assert_close([0.1 * i for i in range(20)], log.health["loss"])
    assert json.loads(json.dumps([*log.steps])) == [*range(1, 21)]
    log.add(21, {"loss": 0.0, "gap": 0.0})  # an array does not keep it from growing
    assert len(loss) == 20 and len(log.health["loss"]) == 21


def test_rows_can_be_taken_back_and_added_anew():
    log = log_of(20)
    log.events.append("a rollback")
    log.truncate(7)
    assert log.steps == [*range(1, 8)] and log.health == log_of(7).health
    assert log.events == ["a rollback"]  # what happened is not undone
    log.add(8, {"loss": 0.7, "gap": -7.0})
    assert log.health["gap"] == log_of(8).health["gap"]
    log.truncate(0)
    log.add(1, {"other": 1.0})  # the first row says what the figures are
    assert [*log.health] == ["other"]


def test_a_row_with_other_figures_is_refused():
    log = log_of(2)
    for figures in ({"loss": 1.0}, {"loss": 1.0, "gap": 0.0, "new": 2.0}):
        with pytest.raises(ValueError, match="the same health figures"):
            log.add(3, figures)
    assert log == log_of(2)


def test_a_row_that_was_cut_short_is_taken_back():
    class Interrupt:
        def __float__(self):
            raise KeyboardInterrupt

    log = log_of(5)
    with pytest.raises(KeyboardInterrupt):
        log.add(6, {"loss": 1.0, "gap": Interrupt()})
    log.truncate(5)
    assert log == log_of(5)


def test_the_log_is_stored_and_read_bit_for_bit():
    log = log_of(300, tiny=5e-324, huge=1.7976931348623157e308)
    log.events += [f"event {i}" for i in range(EVENTS + 5)]
    state, again = log.state_dict(), TrainingLog()
    again.load_state_dict(state)
    assert again.steps == log.steps and again.health == log.health
    assert [*again.health] == [*log.health]  # in this order
    assert again.events == log.events[-EVENTS:]
    part = TrainingLog()
    part.load_state_dict(log.state_dict(100))
    assert (
        part.steps == log.steps[:100]
        and part.health["loss"] == state["health"]["loss"].tolist()[:100]
    )
    state["health"]["loss"] = state["health"]["loss"][:-1]
    with pytest.raises(ValueError, match="the same length"):
        again.load_state_dict(state)
    assert again.steps == log.steps
    assert pickle.loads(pickle.dumps(log)) == log == copy.deepcopy(log)


def test_a_checkpoint_of_a_long_run_keeps_its_header_short():
    """Numbers become tensors; what goes into the JSON header does not grow."""
    state = log_of(50_000).state_dict()
    state["events"] = ["x" * 100] * len(state["events"])
    tensors = [state.pop("steps"), *state.pop("health").values()]
    assert all(t.shape == (50_000,) and t.element_size() == 8 for t in tensors)
    assert len(json.dumps(state)) < 100


def test_the_table_has_the_first_and_the_last_step():
    lines = log_of(20).table(rows=3).splitlines()
    assert lines[0].split() == ["step", "loss", "gap"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "11", "20"]
    assert lines[2].split() == ["11", "1", "-10"]
    assert len(log_of(1).table().splitlines()) == 2
    assert TrainingLog().table() == "no steps"


def test_the_log_says_briefly_what_it_is():
    log = log_of(3000)
    assert repr(log) == "TrainingLog(3000 steps of 2 figures, loss 299.9, 0 events)"
    assert repr(TrainingLog()) == "TrainingLog(0 steps of 0 figures, 0 events)"
