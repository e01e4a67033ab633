"""Facts about the state of a run: a snapshot is whole, independent and exact."""

import logging

import pytest
import torch
from tiny_training import IMAGES, TinyEnergy, fit, mean_energy, weights

import ebmlib.state
from ebmlib.guard import Guard
from ebmlib.state import RunState


class Chains:
    """An objective with a state that `state_dict` hands out without copying."""

    def __init__(self):
        self.chains, self.reads = torch.zeros(3), 0

    def __call__(self, energy, batch, generator):
        self.chains += 1
        return mean_energy(energy, batch, generator)

    def state_dict(self):
        self.reads += 1
        return {"chains": self.chains}

    def load_state_dict(self, state):
        self.chains = state["chains"]


def state_of(energy, objective=mean_energy, ema=0.5):
    device = torch.device("cpu")
    return RunState(energy, objective, 1e-2, (0.9, 0.999), ema, 3, device)


class CopyingChains(Chains):
    """The same, but `state_dict` returns copies, as that of a replay buffer."""

    def state_dict(self):
        self.last = super().state_dict()["chains"].clone()
        return {"chains": self.last, "none": torch.empty(0), "count": [1, None]}


def step(state):
    batch = state.next_batch(IMAGES, 4)
    loss = state.objective(state.energy, batch, state.generator).loss
    state.optimizer.zero_grad()
    (loss + torch.rand(())).backward()  # also a draw from the global state
    state.optimizer.step()
    state.average()
    state.step += 1
    state.log.add(state.step, {"loss": loss.item()})


def content(state):
    """Everything that a step changes, as one list of numbers."""
    draws = torch.rand(2, generator=state.generator), torch.rand(2)
    averaged = list(state.averaged.values())
    moments = state.optimizer.state_dict()["state"].values()
    tensors = [*averaged, *(m["exp_avg_sq"] for m in moments), *draws]
    numbers = [weights(state.energy), *(t.flatten() for t in tensors)]
    return torch.cat(numbers).tolist(), [*state.log.steps], state.position


@pytest.mark.parametrize("kind", [Chains, CopyingChains])
@pytest.mark.parametrize("snapshots", [1, 2, 3])
def test_going_back_undoes_everything_as_often_as_wanted(snapshots, kind):
    objective = kind()
    state = state_of(TinyEnergy(), objective)
    with state.running(None, {}, resume=False):
        for _ in range(snapshots):  # the memory of older ones is used again
            for _ in range(2):
                step(state)
            state.keep()
        expected = []
        for _ in range(3):
            step(state)
            expected.append(content(state))
        for _ in range(2):
            state.go_back()
            assert state.step == len(state.log) == 2 * snapshots
            assert objective.chains.tolist() == [2 * snapshots] * 3
            found = []
            for _ in range(3):
                step(state)
                found.append(content(state))
            assert found == expected


def test_a_snapshot_that_is_cut_short_leaves_the_last_one_whole(monkeypatch):
    state = state_of(TinyEnergy())
    with state.running(None, {}, resume=False):
        for _ in range(3):
            step(state)
            state.keep()
        kept = weights(state.energy).clone()
        copy_tree = ebmlib.state.copy_tree

        def interrupted(tree, spare=None):
            copy_tree({"model": tree["model"]}, spare)
            raise KeyboardInterrupt

        step(state)
        monkeypatch.setattr("ebmlib.state.copy_tree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            state.keep()
        monkeypatch.undo()
        state.go_back()
    assert torch.equal(weights(state.energy), kept) and state.step == 3


def elements(tree):
    if isinstance(tree, dict):
        return sum(map(elements, tree.values()))
    if isinstance(tree, list):
        return sum(map(elements, tree))
    return tree.numel() if isinstance(tree, torch.Tensor) else 1


def test_a_snapshot_does_not_grow_with_the_log():
    sizes = []
    for rows in (1, 10_000):
        state = state_of(TinyEnergy())
        for row in range(rows):
            state.log.add(row + 1, {"loss": 0.0, "gap": 1.0})
        state.keep()
        sizes.append(elements(state.good))
    assert sizes[0] == sizes[1]


def test_a_state_that_comes_as_a_copy_is_not_copied_again():
    """Chains are the largest part of a state."""
    objective = CopyingChains()
    state = state_of(TinyEnergy(), objective)
    state.keep()
    assert state.good["objective"]["chains"] is objective.last
    objective = Chains()
    state = state_of(TinyEnergy(), objective)
    state.keep()
    assert state.good["objective"]["chains"] is not objective.chains


def test_the_state_of_the_objective_is_read_once_a_snapshot():
    objective = Chains()
    fit(objective=objective, steps=8, guard=Guard(snapshot_every=4))
    # At the start, after 4 and after 8 steps; and twice to see whether it is a copy.
    assert objective.reads == 5


def test_an_interrupt_before_the_first_snapshot_overwrites_nothing(tmp_path):
    """Who stops a run at once did perhaps not mean to start it."""
    path = tmp_path / "run.safetensors"
    fit(checkpoint=path)
    content = path.read_bytes()

    def stop(step, info):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint=path, resume=False, seed=1, callback=stop)
    assert path.read_bytes() == content


def test_resumes_and_rollbacks_are_logged_and_else_nothing_is_printed(
    tmp_path, caplog, capsys
):
    path = tmp_path / "run.safetensors"
    fit(checkpoint=path)
    with caplog.at_level(logging.INFO, logger="ebmlib"):
        fit(checkpoint=path)
    (record,) = caplog.records
    assert record.name == "ebmlib.state" and record.levelname == "INFO"
    assert record.getMessage() == f"resumed {path} at step 6"
    assert capsys.readouterr() == ("", "")
