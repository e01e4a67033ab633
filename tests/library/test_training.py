"""Facts about the loop: what a step is, how a run ends, and what it refuses."""

import itertools
import math

import numpy as np
import pytest
import torch
from second_device import DEVICE
from tiny_training import IMAGES, Poisoned, TinyEnergy, fit, mean_energy, weights
from torch import nn

from ebmlib.checkpoint import CheckpointError, read_checkpoint
from ebmlib.devices import choose_device
from ebmlib.guard import Guard
from ebmlib.losses import LossResult
from ebmlib.objectives import DenoisingScoreMatching
from ebmlib.random import randn
from ebmlib.training import train

# what a step is


def test_training_is_the_literal_loop():
    energy, log = fit(clip_norm=0.5, seed=3)
    mine, generator = TinyEnergy(), torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(mine.parameters(), lr=1e-2)
    order = torch.empty(0, dtype=torch.long)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = (
            1e-2 * 0.5 * (1 + math.cos(math.pi * step / 6))
        )
        rest = order
        if len(order) < 4:
            order = torch.randperm(10, generator=generator)
            index, order = torch.cat([rest, order])[:4], order[4 - len(rest) :]
        else:
            index, order = order[:4], order[4:]
        loss = mean_energy(mine, IMAGES[index], generator).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(mine.parameters(), 0.5)
        optimizer.step()
        assert log.health["loss"][step] == loss.item()
    assert torch.equal(weights(energy), weights(mine))


def test_one_pass_visits_every_image_once():
    seen = []

    def remember(batch, generator):
        seen.extend(batch.sum((1, 2, 3)).tolist())
        return batch

    fit(steps=5, batch_size=4, augment=remember)  # 20 draws, 10 images
    every = sorted(IMAGES.sum((1, 2, 3)).tolist())
    assert sorted(seen[:10]) == every and sorted(seen[10:]) == every
    assert seen[:10] != seen[10:]


def test_a_batch_may_be_larger_than_the_data():
    _, log = fit(steps=1, batch_size=25)
    assert log.steps == [1]


def test_schedules():
    cosine = fit(schedule="cosine")[1].health["learning_rate"]
    constant = fit(schedule="constant")[1].health["learning_rate"]
    assert cosine[0] == 1e-2 and cosine == sorted(cosine, reverse=True)
    assert cosine[3] == pytest.approx(0.5e-2)  # half way
    assert constant == [1e-2] * 6


def test_the_energy_ends_with_the_averaged_weights():
    history = []

    def remember(step, info):
        history.append(weights(info["energy"]).clone())

    energy, _ = fit(ema=0.5, callback=remember)
    average = weights(TinyEnergy())
    for t, w in enumerate(history):
        keep = min(0.5, (1 + t) / (10 + t))
        average = keep * average + (1 - keep) * w
    torch.testing.assert_close(weights(energy), average)
    assert not torch.equal(weights(energy), history[-1])


def test_the_same_seed_gives_the_same_bits_and_the_global_state_is_untouched():
    before = torch.get_rng_state()
    a, b, c = fit(seed=1), fit(seed=1), fit(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(a[0]), weights(b[0])) and a[1] == b[1]
    assert not torch.equal(weights(a[0]), weights(c[0]))


def test_frozen_parameters_and_the_modes_stay():
    energy = TinyEnergy().eval()
    energy.part = nn.Identity().train()  # another mode than the whole
    energy.bias.requires_grad_(False)
    fit(energy)
    assert torch.equal(energy.bias, torch.zeros(8))
    assert not energy.training and energy.part.training
    assert energy.weight.grad is None


def test_an_energy_in_float64_takes_images_of_float32():
    energy, log = fit(TinyEnergy().double())
    assert weights(energy).dtype == torch.float64
    assert log.health["loss"][0] == pytest.approx(fit()[1].health["loss"][0])


# The settings of PyTorch that a caller may have left on.


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_works_where_gradients_are_off(mode):
    energy, objective = TinyEnergy(), DenoisingScoreMatching([0.1])
    with mode():
        train(
            energy,
            IMAGES.clone(),  # an inference tensor, in that mode
            objective,
            steps=6,
            batch_size=4,
            learning_rate=1e-2,
            ema=0.9,
            device="cpu",
        )
        assert not torch.is_grad_enabled()
    other, _ = fit(objective=objective, ema=0.9)
    assert torch.equal(weights(energy), weights(other))
    assert not weights(energy).is_inference()


def test_an_energy_that_cannot_have_gradients_is_refused_in_words():
    with torch.inference_mode():
        energy = TinyEnergy()
    with pytest.raises(ValueError, match="inference_mode"):
        fit(energy)


def test_another_default_dtype_changes_nothing():
    energy, log = TinyEnergy(), fit(objective=plain_energy, ema=0.9)[1]
    torch.set_default_dtype(torch.float64)
    try:
        _, other = fit(energy, plain_energy, ema=0.9)
    finally:
        torch.set_default_dtype(torch.float32)
    assert weights(energy).dtype == torch.float32
    assert other == log


def plain_energy(energy, batch, generator):
    e = energy(batch)
    return LossResult(e.mean() + 0.1 * e.square().mean(), {})


@pytest.mark.parametrize("images", ["on the device", "on the CPU"])
def test_a_run_on_another_device_gives_the_same_numbers(
    tmp_path, monkeypatch, second_device, images
):
    """Weights, averages, snapshots, rollback, checkpoint and resume included."""
    where = []

    def note(batch, generator):
        where.append(batch.device)
        return batch * (1 + 0.01 * randn(batch.shape, generator, batch))

    def run(device, name, stop_at=None):
        def stop(step, info):
            if step == stop_at:
                raise KeyboardInterrupt

        monkeypatch.setattr("ebmlib.training.choose_device", lambda name: device)
        there = device if images == "on the device" else torch.device("cpu")
        energy = TinyEnergy()
        log = train(
            energy,
            IMAGES.to(there),
            Poisoned(3, nan_loss, objective=noisy_energy),
            steps=6,
            batch_size=4,
            learning_rate=1e-2,
            ema=0.9,
            augment=note,
            checkpoint=tmp_path / name,
            checkpoint_every=2,
            callback=stop,
        )
        assert {p.device for p in energy.parameters()} == {device}
        assert {*where} == {there}  # a batch is augmented where the images lie
        where.clear()
        return weights(energy).detach().cpu(), log

    with pytest.warns(RuntimeWarning, match="step 3 refused"):
        expected, log = run(torch.device("cpu"), "cpu")
        with pytest.raises(KeyboardInterrupt):
            run(second_device.device, "there", stop_at=5)
    where.clear()
    found, resumed = run(second_device.device, "there")
    assert torch.equal(found, expected)
    assert resumed.health == log.health and resumed.events[-1] == "resumed at step 4"


def noisy_energy(energy, batch, generator):
    return plain_energy(energy, batch + 0.1 * randn(batch.shape, generator, batch), 0)


def nan_loss(energy, result):
    return LossResult(result.loss * math.nan, result.health)


def test_the_host_waits_a_few_times_a_step(monkeypatch, second_device):
    """For the loss, the norm of the gradient and that of the weights."""
    monkeypatch.setattr("ebmlib.training.choose_device", lambda name: DEVICE)
    images, reads = second_device(IMAGES), []

    def note(step, info):
        reads.append(second_device.reads)

    options = {"steps": 6, "batch_size": 4, "callback": note}
    train(TinyEnergy(), images, plain_energy, **options)
    assert [b - a for a, b in itertools.pairwise(reads[:5])] == [3] * 4


def test_progress_is_written_to_stderr_only_and_only_if_wanted(capsys):
    fit(progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "6/6" in err and "loss" in err
    fit()  # pytest's stderr is no terminal, as that of a notebook
    assert capsys.readouterr() == ("", "")


# Ctrl-C


def test_ctrl_c_leaves_a_checkpoint_and_the_rest_is_the_same(tmp_path):
    def interrupt(step, info):
        if step == 4:
            raise KeyboardInterrupt

    path, guard = tmp_path / "run.safetensors", Guard(snapshot_every=3)
    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint=path, guard=guard, callback=interrupt, ema=0.9)
    energy, log = fit(checkpoint=path, guard=guard, ema=0.9)
    whole, full_log = fit(guard=guard, ema=0.9)
    assert log.events == ["resumed at step 3"]
    assert torch.equal(weights(energy), weights(whole))
    assert log.health == full_log.health and log.steps == full_log.steps


def test_ctrl_c_in_the_middle_of_a_step_goes_back_to_a_whole_state(tmp_path):
    def stop(energy, result):
        with torch.no_grad():
            energy.bias += 1  # a half-done step
        raise KeyboardInterrupt

    path, guard = tmp_path / "run.safetensors", Guard(snapshot_every=2)
    energy, objective = TinyEnergy(), Poisoned(6, stop)
    with pytest.raises(KeyboardInterrupt):
        fit(energy, objective, checkpoint=path, guard=guard)
    assert energy.weight.grad is None
    again, log = fit(objective=objective, checkpoint=path, guard=guard)
    assert log.events == ["resumed at step 4"]
    assert torch.equal(weights(again), weights(fit(guard=guard)[0]))


def test_a_request_to_exit_is_treated_as_ctrl_c(tmp_path):
    def leave(step, info):
        if step == 4:
            raise SystemExit  # as a handler of SIGTERM may do

    path = tmp_path / "run.safetensors"
    with pytest.raises(SystemExit):
        fit(checkpoint=path, guard=Guard(snapshot_every=2), callback=leave)
    assert read_checkpoint(path, "ebmlib.training")[1]["state"]["step"] == 4


@pytest.mark.parametrize("where", ["callback", "augment", "objective"])
def test_an_error_leaves_the_last_good_state_and_the_last_checkpoint(tmp_path, where):
    calls = []

    def fail(*args):
        calls.append(1)
        if len(calls) == 6:
            raise ZeroDivisionError
        return mean_energy(*args) if where == "objective" else args[0]

    path, before = tmp_path / "run.safetensors", torch.get_rng_state()
    energy, guard = TinyEnergy().eval(), Guard(snapshot_every=4)
    options = {"steps": 8, "schedule": "constant", "guard": guard}
    with pytest.raises(ZeroDivisionError):
        fit(energy, checkpoint=path, checkpoint_every=3, **{where: fail}, **options)
    # Snapshots are taken at every write and at every fourth step: 3, 4, 6.
    step = 6 if where == "callback" else 4
    good, _ = fit(**options | {"steps": step})
    assert torch.equal(weights(energy), weights(good))
    assert not energy.training and energy.weight.grad is None
    assert torch.equal(torch.get_rng_state(), before)
    written = read_checkpoint(path, "ebmlib.training")[1]["state"]["step"]
    assert written == (6 if where == "callback" else 3)


# checkpoints


def test_a_finished_run_resumes_as_finished(tmp_path):
    path = tmp_path / "run.safetensors"
    energy, log = fit(checkpoint=path, ema=0.9)
    again, second = fit(checkpoint=path, ema=0.9)
    assert torch.equal(weights(energy), weights(again))
    assert second.health == log.health


def test_resume_false_starts_anew(tmp_path):
    path = tmp_path / "run.safetensors"
    fit(checkpoint=path)
    _, log = fit(checkpoint=path, seed=5, resume=False)
    assert log.events == []


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"steps": 7}, "steps was 6, is 7"),
        ({"learning_rate": 1e-3}, "learning_rate was 0.01, is 0.001"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"objective": DenoisingScoreMatching([0.1])}, "objective was .*mean_energy'"),
        ({"augment": lambda x, g: x}, "augment was None"),
        ({"guard": Guard(snapshot_every=3)}, "guard.snapshot_every was 10, is 3"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, options, name):
    path = tmp_path / "run.safetensors"
    fit(checkpoint=path)
    content = path.read_bytes()
    with pytest.raises(CheckpointError, match=name):
        fit(checkpoint=path, **options)
    assert path.read_bytes() == content


def test_other_images_are_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    fit(checkpoint=path)
    with pytest.raises(CheckpointError, match="images was"):
        train(
            TinyEnergy(),
            IMAGES + 0.01,
            mean_energy,
            steps=6,
            batch_size=4,
            learning_rate=1e-2,
            checkpoint=path,
        )


# mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": -5}, "steps"),
        ({"steps": "a"}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": None}, "steps"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"schedule": "linear"}, "schedule"),
        ({"ema": 1.0}, "ema"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"learning_rate": "1e-3"}, "learning_rate"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": 0.9}, "betas"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"progress": "yes"}, "progress"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"clip_norm": math.nan}, "clip_norm"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"device": "tpu"}, "device"),
        ({"checkpoint": "/no/such/folder/x.safetensors"}, "folder"),
    ],
)
def test_mistakes_are_named_before_the_first_step(options, message):
    energy = TinyEnergy().eval()
    with pytest.raises(ValueError, match=message):
        fit(energy, never, **options)
    assert torch.equal(weights(energy), weights(TinyEnergy()))


def never(energy, batch, generator):
    pytest.fail("a step was made")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": 3}, "objective"),
        ({"augment": 0.5}, "augment"),
        ({"callback": "print"}, "callback"),
        ({"guard": {"max_rollbacks": 3}}, "guard"),
        ({"checkpoint": 3}, "checkpoint"),
    ],
)
def test_things_of_the_wrong_kind_are_named(options, message):
    with pytest.raises(TypeError, match=message):
        fit(**options)


def test_a_state_that_cannot_be_stored_is_refused_before_the_first_step(tmp_path):
    class Odd:
        def __call__(self, energy, batch, generator):
            pytest.fail("a step was made")

        def state_dict(self):
            return {"when": object()}

        def load_state_dict(self, state):
            pass

    with pytest.raises(TypeError, match="when is a object"):
        fit(objective=Odd(), checkpoint=tmp_path / "run.safetensors")
    assert [*tmp_path.iterdir()] == []


def test_numbers_of_numpy_are_numbers():
    energy, _ = fit(steps=np.int64(6), learning_rate=np.float64(1e-2), seed=np.int32(0))
    assert torch.equal(weights(energy), weights(fit()[0]))


def test_images_and_energies_of_the_wrong_kind_are_named():
    energy = TinyEnergy()
    with pytest.raises(TypeError, match=r"nn\.Module"):
        train(lambda x: x.sum(1), IMAGES, mean_energy, steps=1)
    with pytest.raises(TypeError, match="float"):
        train(energy, (255 * IMAGES).byte(), mean_energy, steps=1)
    with pytest.raises(ValueError, match="N >= 1"):
        train(energy, IMAGES[:0], mean_energy, steps=1)
    holed = IMAGES.clone()
    holed[3, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="image 3"):
        train(energy, holed, mean_energy, steps=1)
    with pytest.raises(ValueError, match="requires a gradient"):
        train(energy.requires_grad_(False), IMAGES, mean_energy, steps=1)


def test_the_device_is_chosen_by_name():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(torch.device("cpu")) == torch.device("cpu")
    for name in ("gpu", "cuda:99", "mps:5", "cpu:1", "meta", "", "cuda:-1", None, 3.5):
        with pytest.raises(ValueError, match="'auto' or one of"):
            choose_device(name)


@pytest.mark.parametrize(("cuda", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_mps_is_taken_only_by_name(monkeypatch, cuda, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == chosen
    assert choose_device("mps").type == "mps"
