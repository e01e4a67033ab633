"""Facts about the loop: what a step is, and that a bad one is never kept."""

import math
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ebmlib.checkpoint
from ebmlib.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from ebmlib.devices import choose_device
from ebmlib.guard import BadStep, Guard, TrainingDiverged
from ebmlib.langevin import ChainDiverged
from ebmlib.losses import LossResult
from ebmlib.objectives import (
    ContrastAndRestoration,
    DenoisingScoreMatching,
    NoiseContrastive,
    PersistentContrastiveDivergence,
)
from ebmlib.replay import ReplayBuffer
from ebmlib.runlog import TrainingLog
from ebmlib.training import train

torch.set_num_threads(1)  # small tensors: more threads only wait for each other

IMAGES = torch.rand(10, 3, 4, 4, generator=torch.Generator().manual_seed(7))


class TinyEnergy(nn.Module):
    """A sum of SiLU features; the weights are the same in every test."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(0.1 * torch.randn(8, 48, generator=generator))
        self.bias = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        features = nn.functional.linear(x.flatten(1), self.weight, self.bias)
        return nn.functional.silu(features).sum(1)


def mean_energy(energy, batch, generator):
    """The simplest objective: push E(data) down, with noise and a pull to zero."""
    e = energy(batch + 0.1 * torch.randn(batch.shape, generator=generator))
    loss = e.mean() + 0.1 * e.square().mean()
    return LossResult(loss, {"energy_data": e.mean().item()})


class Poisoned:
    """`mean_energy`, but call number `bad` does something wrong."""

    def __init__(self, bad, how):
        self.bad, self.how, self.calls = bad, how, 0

    def __call__(self, energy, batch, generator):
        self.calls += 1
        result = mean_energy(energy, batch, generator)
        return self.how(energy, result) if self.calls == self.bad else result


def fit(energy=None, objective=mean_energy, **options):
    energy = energy or TinyEnergy()
    settings = {"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "device": "cpu"}
    return energy, train(energy, IMAGES, objective, **settings | options)


def weights(energy):
    return torch.cat([p.detach().flatten() for p in energy.parameters()])


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


def test_frozen_parameters_and_the_mode_stay():
    energy = TinyEnergy().eval()
    energy.bias.requires_grad_(False)
    fit(energy)
    assert torch.equal(energy.bias, torch.zeros(8))
    assert not energy.training and energy.weight.grad is None


def test_progress_is_written_to_stderr_only(capsys):
    fit(progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "6/6" in err


def test_the_log_table_has_the_first_and_the_last_step():
    _, log = fit(steps=20)
    lines = log.table(rows=3).splitlines()
    assert lines[0].split()[:2] == ["step", "loss"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "11", "20"]
    assert TrainingLog().table() == "no steps"


# the guard


def nan_loss(energy, result):
    return LossResult(result.loss * math.nan, result.health)


def huge_energy(energy, result):
    return LossResult(result.loss, {"energy_data": 1e9})


def huge_loss(energy, result):
    return LossResult(result.loss * 1e5, result.health)


def infinite_gradient(energy, result):
    # sqrt has an infinite slope at zero, and the loss itself stays finite.
    return LossResult(result.loss + (energy.bias * 0).sqrt().sum(), result.health)


def diverged_chain(energy, result):
    raise ChainDiverged("a chain is not finite")


@pytest.mark.parametrize(
    "how", [nan_loss, huge_energy, huge_loss, infinite_gradient, diverged_chain]
)
def test_a_poisoned_step_is_rolled_back_and_training_goes_on(how):
    guard = Guard(snapshot_every=3)
    with pytest.warns(RuntimeWarning, match="step 5 refused"):
        energy, log = fit(objective=Poisoned(5, how), guard=guard, schedule="constant")
    assert log.steps == [1, 2, 3, 4, 5, 6]
    assert log.health["learning_rate"] == [1e-2] * 3 + [0.5e-2] * 3
    assert len(log.events) == 1 and "Back to step 3" in log.events[0]
    assert weights(energy).isfinite().all()
    # The steps before the snapshot are those of a run that met no poison.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, clean = fit(schedule="constant")
    assert log.health["loss"][:3] == clean.health["loss"][:3]
    assert log.health["loss"][3:] != clean.health["loss"][3:]


@pytest.mark.parametrize(
    ("rate", "reason"),
    [
        (1e37, "updated weights is inf"),
        (1e6, "norm of the weights from"),
        (50, "final"),
    ],
)
def test_the_last_update_is_judged_too(rate, reason):
    # One step only, so no later loss could see what it has done.
    def raise_energy(energy, batch, generator):
        return LossResult(-energy(batch).mean(), {})

    energy, guard = TinyEnergy(), Guard(max_energy=100.0, max_rollbacks=1)
    with pytest.warns(RuntimeWarning, match=reason), pytest.raises(TrainingDiverged):
        fit(energy, raise_energy, steps=1, learning_rate=rate, guard=guard)
    assert torch.equal(weights(energy), weights(TinyEnergy()))


def test_advice_after_a_divergence_fits_the_objective():
    def message(objective):
        options = {"learning_rate": 1e30, "guard": Guard(max_rollbacks=1)}
        with pytest.warns(RuntimeWarning), pytest.raises(TrainingDiverged) as caught:
            fit(TinyEnergy(), objective, **options)
        return str(caught.value)

    def blot(images, generator):
        masks = torch.zeros(len(images), 4, 4, dtype=torch.bool)
        masks[:, :2] = True
        return torch.where(masks[:, None], 0.0, images), masks

    def noise(count, generator):
        return torch.rand(count, 3, 4, 4, generator=generator)

    buffer = ReplayBuffer(16, noise, generator=torch.Generator().manual_seed(0))
    chains = PersistentContrastiveDivergence(buffer, steps=1, step_size=0.01)
    soft, fitted = (
        ContrastAndRestoration(blot, restoration=0.5, stiffness=k) for k in (10.0, None)
    )
    assert "clip_norm; for contrastive divergence also a larger pen" in message(chains)
    assert "force may be too soft" in message(soft)
    assert "clip_norm; also a smaller restoration. If" in message(fitted)
    for plain in (NoiseContrastive(blot), DenoisingScoreMatching([0.1]), mean_energy):
        assert "or a smaller clip_norm. If the loss is NaN" in message(plain)


@pytest.mark.parametrize("rate", [1.0, 1e3, 1e6, 1e12, 1e30])
@pytest.mark.parametrize("objective", [mean_energy, DenoisingScoreMatching([0.1])])
def test_no_learning_rate_leaves_broken_weights_behind(rate, objective):
    energy, limit = TinyEnergy(), 1e4
    kept = []

    def look(step, info):
        kept.append(bool(weights(info["energy"]).isfinite().all()))
        assert math.isfinite(info["health"]["loss"])

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(
                energy,
                objective,
                steps=15,
                learning_rate=rate,
                schedule="constant",
                guard=Guard(snapshot_every=2, max_energy=limit),
                callback=look,
            )
    except TrainingDiverged as error:
        assert f"{rate:.3g}" in str(error) and "learning_rate=" in str(error)
        assert len(error.log.events) == 5
    else:
        assert rate < 1e6
    assert all(kept) and weights(energy).isfinite().all()
    assert energy(IMAGES).abs().max() < limit


def test_a_quiet_stretch_does_not_make_a_usual_loss_an_explosion():
    """A loss is compared with the median of the last fifty, not of the last few."""
    log = TrainingLog()
    for step in range(1, 51):
        log.add(step, {"loss": 100.0 if step <= 40 else 0.01})
    guard = Guard(max_growth=10)
    guard.check_loss(LossResult(torch.tensor(900.0), {}), log)
    with pytest.raises(BadStep, match="usual size 100"):
        guard.check_loss(LossResult(torch.tensor(1100.0), {}), log)


def test_rollback_brings_back_the_state_of_the_objective():
    class Counting:
        count, fail = 0, True

        def __call__(self, energy, batch, generator):
            self.count += 1
            result = mean_energy(energy, batch, generator)
            if self.count == 4 and self.fail:
                self.fail = False
                return nan_loss(energy, result)
            return result

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    objective = Counting()
    with pytest.warns(RuntimeWarning):
        fit(objective=objective, guard=Guard(snapshot_every=2))
    assert objective.count == 6


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
    energy = TinyEnergy()
    with pytest.raises(KeyboardInterrupt):
        fit(energy, Poisoned(6, stop), checkpoint=path, guard=guard)
    assert energy.weight.grad is None
    again, _ = fit(objective=Poisoned(0, stop), checkpoint=path, guard=guard)
    assert torch.equal(weights(again), weights(fit(guard=guard)[0]))


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
        ({"objective": DenoisingScoreMatching([0.1])}, "objective was 'mean_energy'"),
        ({"augment": lambda x, g: x}, "augment was None"),
        ({"guard": Guard(snapshot_every=3)}, "guard"),
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


def test_tensors_and_numbers_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "x.safetensors"
    base = torch.randn(4, 6)
    tensors = {
        "transposed": base.T,
        "shared": base,
        "empty": torch.empty(0, dtype=torch.long),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "half": base.bfloat16(),
        "flags": base > 0,
    }
    header = {"x": [0.1, 1e-300, -0.0, None, True], "text": "ß"}
    write_checkpoint(path, tensors, header, "test")
    back, again = read_checkpoint(path, "test")
    assert again == header and set(back) == set(tensors)
    for name, value in tensors.items():
        assert back[name].dtype == value.dtype and torch.equal(back[name], value)


@pytest.mark.parametrize("stage", ["save", "os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_the_previous_file_whole(
    tmp_path, monkeypatch, stage
):
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {"a": torch.zeros(3)}, {"step": 1}, "test")

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(f"{ebmlib.checkpoint.__name__}.{stage}", full)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint(path, {"a": torch.ones(3)}, {"step": 2}, "test")
    monkeypatch.undo()
    tensors, header = read_checkpoint(path, "test")
    assert header == {"step": 1} and torch.equal(tensors["a"], torch.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {"a": torch.zeros(300)}, {"step": 1}, "test")
    content = path.read_bytes()
    bad = {}
    for length in (0, 7, 8, 100, len(content) - 1):
        bad[f"cut at {length}"] = content[:length]
    for place in (len(content) - 5, content.index(b"step")):
        flipped = bytearray(content)
        flipped[place] ^= 1
        bad[f"bit flipped at {place}"] = bytes(flipped)
    torch.save({"a": torch.zeros(3)}, tmp_path / "pickle.pt")
    bad["pickle"] = (tmp_path / "pickle.pt").read_bytes()
    bad["text"] = b"hello"
    save_file({"a": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    bad["foreign"] = (tmp_path / "foreign.safetensors").read_bytes()
    for what, data in bad.items():
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"x\.safetensors"):
            read_checkpoint(path, "test")
            pytest.fail(what)
        with pytest.raises(CheckpointError):
            fit(checkpoint=path)
        assert path.read_bytes() == data
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="other"):
        read_checkpoint(path, "other")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "missing", "test")


# mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"schedule": "linear"}, "schedule"),
        ({"ema": 1.0}, "ema"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"guard": Guard(rate_factor=2.0)}, "rate_factor"),
        ({"device": "tpu"}, "device"),
        ({"checkpoint": "/no/such/folder/x.safetensors"}, "folder"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        fit(**options)


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
    assert choose_device("auto").type in ("cuda", "mps", "cpu")
    with pytest.raises(ValueError, match="'auto' or one of"):
        choose_device("gpu")
