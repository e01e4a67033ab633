"""The runs that come with the book: they load, they are good, the errors are clear."""

import pytest
import torch

from ebmbook.saved import (
    CD_SIZE,
    SIZE,
    STEPS,
    cd_run,
    load_saved,
    save_cd,
    saved_detector,
    train_cd,
)
from ebmlib.data import load
from ebmlib.metrics import au_pro, image_auroc
from ebmlib.scoring import energy_score, gradient_map, image_score


def test_the_saved_detector_finds_what_no_trivial_baseline_finds():
    data = load("synthetic/nut", size=SIZE)
    detector = saved_detector()
    assert detector.recipe.steps == STEPS and detector.seed == 0
    assert image_auroc(detector.anomaly_score(data.test), data.labels) > 0.95
    assert au_pro(detector.anomaly_map(data.test), data.masks) > 0.95


def test_an_unknown_category_is_named():
    with pytest.raises(ValueError, match=r"no saved detector.*'synthetic/nut'"):
        saved_detector("mvtec/bottle")


def test_the_saved_energy_locates_defects_and_its_sum_hardly_detects_them():
    data, run = load("synthetic/nut", size=CD_SIZE), load_saved("nut_cd_2000")
    maps = gradient_map(run.energy, data.test, smoothing=1.0)
    assert au_pro(maps, data.masks) > 0.78
    energy = image_auroc(energy_score(run.energy, data.test), data.labels)
    assert 0.6 < energy < image_auroc(image_score(maps, "max"), data.labels)


def test_the_saved_run_says_how_it_came_about():
    run = load_saved()
    images = load("synthetic/nut", size=CD_SIZE).train[: run.settings["images"]]
    fresh, objective = cd_run(images, run.settings["seed"])
    assert fresh.config() == run.energy.config()
    assert (run.step_size, run.noise) == (objective.step_size, objective.noise)
    assert run.settings["updates"] == 2000 and run.settings["events"] == []
    assert int(run.health["step"][-1]) == 2000 == 10 * len(run.health["gap"])
    assert run.chains.shape == (16, 3, CD_SIZE, CD_SIZE)
    assert (run.ages.diff() <= 0).all() and run.chains.min() > 0


def test_a_run_comes_back_as_it_was_saved(tmp_path, monkeypatch):
    images = torch.rand(24, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    energy, objective, log = train_cd(images, steps=20)
    monkeypatch.setattr("ebmbook.saved.FOLDER", tmp_path)
    save_cd(tmp_path / "my_cd_20.safetensors", energy, objective, log, {"seed": 0})
    run = load_saved("my_cd_20")
    assert torch.equal(run.energy(images), energy(images))
    wanted = torch.tensor(list(log.health["gap"])[10:]).mean()
    torch.testing.assert_close(run.health["gap"][1], wanted)
    assert run.settings == {"seed": 0}


def test_an_unknown_run_is_named():
    with pytest.raises(ValueError, match=r"no saved run 'nut'.*'nut_cd_2000'"):
        load_saved("nut")
