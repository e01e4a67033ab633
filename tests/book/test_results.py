"""Tables and figures say what the files say, trivial rows included."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ebmbook.results import (
    MARK,
    ablation_table,
    choice_table,
    curve_table,
    gain,
    gains_table,
    label,
    plot_results,
    read_results,
    recipe_of,
    results_table,
    tried_table,
)
from ebmlib.baselines import BASELINES, TRIVIAL
from ebmlib.metrics import bootstrap_interval, image_auroc
from ebmlib.networks import PatchEnergy
from ebmlib.products import RATIO_PER_POSITION, ProductOfExperts
from ebmlib.results_files import HISTORY, record, record_path, write_result
from ebmlib.scoring import GRADIENT_WEIGHT

RESULTS = Path(__file__).resolve().parents[2] / "results"


def made(method="contrast", seed=0, auroc=0.9, category="mvtec/felt", **more):
    """A run as the benchmark writes it, without its images."""
    metrics = {
        "image_auroc": auroc,
        "image_auroc_interval": [auroc - 0.05, auroc + 0.02],
        "pixel_auroc": 0.8,
        "pixel_auroc_interval": [0.7, 0.9],
        "au_pro": 0.6,
        "au_pro_interval": [0.5, 0.7],
    }
    head = {"category": category, "method": method, "seed": seed, "image_size": 64}
    return {**head, "metrics": metrics, "seconds": {"fit": 10 + seed}, **more}


def scored(seed, shift=0.0, n=60):
    """A run with images; `shift` separates the classes better by "max"."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], n // 2)
    common = rng.normal(size=n) + labels
    scores = {"energy": common, "max": common + shift * labels}
    scores["score"] = scores["max"]
    images = {
        "labels": labels.tolist(),
        "scores": {name: values.round(4).tolist() for name, values in scores.items()},
    }
    return made(seed=seed, images=images)


def keep(folder, script, made, of=""):
    """Put down the record of a finished experiment."""
    write_result(record_path(folder, HISTORY, script, of), made)


def test_every_trivial_row_is_in_every_table_measured_or_not():
    lines = results_table([made(), made("pca", auroc=0.7)])
    for name in TRIVIAL:
        (line,) = [x for x in lines if x.startswith(f"| {BASELINES[name].label} |")]
        assert ("not measured" in line) == (name != "pca")


def test_a_figure_that_does_not_beat_the_best_trivial_row_is_marked():
    runs = [made("brightness", auroc=0.95), made("pca", auroc=0.7)]
    for auroc, marked in ((0.94, True), (0.95, True), (0.96, False)):
        lines = results_table([*runs, made(auroc=auroc)])
        (line,) = [x for x in lines if x.startswith("| contrast |")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[2] == f"{auroc:.3f}" + f" {MARK}" * marked
        assert cells[5] == f"0.800 {MARK}"  # equal is not above


def test_a_row_is_the_mean_the_range_and_the_hull_of_its_seeds_intervals():
    lines = results_table([made(seed=0, auroc=0.8), made(seed=2, auroc=0.9)])
    expected = "| contrast | 2 | 0.850 (0.800–0.900) | 0.750–0.920 | – | 0.800 | 0.600 "
    assert any(line.startswith(expected + "| 11 |") for line in lines)


def test_baselines_stand_under_their_honest_names_and_in_one_order():
    lines = results_table([made(name) for name in ("contrast", *reversed(BASELINES))])
    rows = [x.split(" | ")[0].strip("| ") for x in lines if x.startswith("| ")][1:]
    assert rows == [*(build.label for build in BASELINES.values()), "contrast"]


def test_what_could_not_be_measured_is_a_dash():
    one = made()
    one["metrics"] |= {"image_auroc": None, "image_auroc_interval": None}
    one["images"] = {"labels": [1, 1], "scores": {"energy": [0.1, 0.2]}}
    (line,) = [x for x in results_table([one]) if x.startswith("| contrast |")]
    assert line.startswith("| contrast | 1 | – | – | – | 0.800 | 0.600 |")
    assert gains_table([one]) == ["No run holds the scores of its images yet."]
    assert plot_results([one, made("pca")]).axes[0].get_yticklabels()[0].get_text() == (
        "PCA reconstruction"
    )


def test_a_longer_training_has_a_row_of_its_own_and_former_names_say_what_they_are():
    long = made(options={"steps": 8000}, auroc=0.95)
    lines = results_table([made(), long, made("thorough_experts")])
    rows = [x.split(" | ")[0].strip("| ") for x in lines if x.startswith("| ")]
    assert rows[-3:] == ["contrast", "contrast, 8000 steps", "thorough experts"]
    assert recipe_of(made("thorough_experts")) == ("experts", 8000)
    assert recipe_of(made(settings={"steps": 7})) == ("contrast", 7)
    assert recipe_of(made("pca")) == ("pca", None)


def test_a_row_says_whose_weights_it_had():
    random = [made(settings={"weights": "random"})]
    assert label("fields", random) == "fields (random weights)"
    settings = {"weights": "resnet18.pth, sha256 0123456789ab"}
    run = made("fields", settings=settings, options={"features": "resnet18"})
    name = "fields, resnet18 features (resnet18.pth, sha256 0123456789ab)"
    assert any(line.startswith(f"| {name} |") for line in results_table([run]))
    assert label("experts", [made(settings={})]) == "experts"


def test_gain_is_the_difference_of_the_library_s_aurocs():
    runs = [scored(seed, shift=0.8) for seed in range(3)]
    expected = []
    for run in runs:
        scores, labels = run["images"]["scores"], np.array(run["images"]["labels"])
        both = [image_auroc(np.array(scores[s]), labels) for s in ("max", "energy")]
        expected.append(both[0] - both[1])
    found = gain(runs, "max")
    assert found.value == pytest.approx(np.mean(expected), abs=1e-12)
    assert 0 < found.low < found.value < found.high
    assert gain(runs) == found  # the detector's standing score is "max" here


def test_gain_has_the_interval_of_the_plain_paired_bootstrap():
    run = scored(0, shift=0.5)
    labels = np.array(run["images"]["labels"])
    best, base = (np.array(run["images"]["scores"][s]) for s in ("max", "energy"))

    def difference(best, base, labels):
        return image_auroc(best, labels) - image_auroc(base, labels)

    plain = bootstrap_interval(difference, best, base, labels, n=2000, stratify=labels)
    assert gain([run], "max")[1:] == pytest.approx(plain, abs=0.01)


def test_gain_of_a_monotone_map_of_the_energy_is_nothing():
    run = scored(1)
    energy = np.array(run["images"]["scores"]["energy"])
    run["images"]["scores"]["cubed"] = (energy**3).tolist()
    assert gain([run], "cubed") == (0, 0, 0)


def test_gain_says_what_is_missing():
    with pytest.raises(ValueError, match="at least one run"):
        gain([])
    with pytest.raises(ValueError, match=r"contrast on mvtec/felt, seed 0: no scores"):
        gain([made()])
    other = scored(1)
    other["images"]["labels"][0] = 1
    with pytest.raises(ValueError, match="differ in their test images"):
        gain([scored(0), other])


def test_the_table_of_gains_has_one_row_per_energy_and_one_column_per_score():
    lines = gains_table([scored(0, 0.5), scored(1, 0.5), made("pca"), made(seed=7)])
    assert lines[0] == "| category | method | seeds | energy | max |"
    assert lines[2].startswith("| mvtec/felt, 64 px | contrast | 2 | ")
    assert lines[2].count("|") == lines[0].count("|") and len(lines) == 3
    assert gains_table([made()]) == ["No run holds the scores of its images yet."]


def test_files_that_are_no_runs_are_left_out(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(made()))
    (tmp_path / "other.json").write_text(json.dumps({"seconds": 3}))
    (tmp_path / "list.json").write_text("[1, 2]")
    assert [run["method"] for run in read_results(tmp_path)] == ["contrast"]


def test_the_figure_shows_every_method_once_and_the_best_trivial_row():
    runs = [made("pca", auroc=0.7), made(seed=0), made(seed=1, auroc=0.8)]
    (ax,) = plot_results(runs).axes
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names == ["PCA reconstruction", "contrast"]
    vertical = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in vertical] == [0.7]
    with pytest.raises(ValueError, match="no run has the metric 'aupimo'"):
        plot_results(runs, "aupimo")


def test_an_ablation_says_what_each_row_loses(tmp_path):
    assert ablation_table(tmp_path) == ["No ablation was measured yet."]
    rows = [
        {
            "name": name,
            "image_auroc": 0.9 + gain,
            "image_auroc_gain": [gain, gain - 0.01, gain + 0.01],
            "au_pro": 0.8,
            "au_pro_gain": [0.0, 0.0, 0.0],
        }
        for name, gain in (("standing", 0.0), ("without log", -0.02))
    ]
    made = {"category": "mvtec/felt", "image_size": 64, "rows": rows}
    keep(tmp_path, "map_ablation", made, "mvtec/felt_64px")
    lines = ablation_table(tmp_path)
    assert "| standing | 0.900 |  | 0.800 |  |" in lines
    assert any("| without log | 0.880 | -20 (-30 to -10) | 0.800 |" in x for x in lines)


def test_a_choice_shows_the_best_and_the_standing_candidate(tmp_path):
    assert choice_table(tmp_path) == ["No choice was recorded yet."]
    ranked = [
        {"cells": cells, "noise": 0.02, "share": 0.25, "mean": value}
        for cells, value in ((1.5, 0.9), (2.0, 0.8), (2.5, 0.7))
    ]
    figures = {"image_auroc": 0.6, "pixel_auroc": 0.9, "au_pro": 0.3}
    made = {
        "categories": {"mvtec/felt, 64 px": {"rows": [r | figures for r in ranked]}},
        "ranking": ranked,
        "standing": {"cells": 2.5, "noise": 0.02, "share": 0.25},
    }
    keep(tmp_path, "choose_experts", made)
    lines = choice_table(tmp_path, most=1)
    assert len(lines) == 4
    assert lines[0] == "| rank | patch | noise | share | felt | mean |"
    assert lines[2] == "| 1 | 1.5 cells | 0.02 | 0.25 | 0.600 | 0.900 |"
    assert lines[3] == "| 3 (standing) | 2.5 cells | 0.02 | 0.25 | 0.600 | 0.700 |"
    made["chosen"] = ranked[1]
    made["categories"]["mvtec/felt, 32 px"] = made["categories"]["mvtec/felt, 64 px"]
    keep(tmp_path, "choose_registered", made)
    lines = choice_table(tmp_path, "registered", most=1)
    assert (
        lines[0]
        == "| rank | patch | noise | share | felt, 64 px | felt, 32 px | mean |"
    )
    assert [line.split("|")[1] for line in lines[2:]] == [
        " 1 ",
        " 2 (chosen by the rule) ",
        " 3 (standing) ",
    ]


def test_every_product_that_was_tried_has_a_row_over_all_exams(tmp_path):
    assert tried_table(tmp_path) == ["No other experts were tried yet."]
    assert tried_table(tmp_path, "maps") == ["No other maps were tried yet."]
    exams = {}
    for name, image in (("mvtec/felt, 64 px", 0.6), ("nail", 0.9)):
        figures = {"image_auroc": image, "pixel_auroc": 0.9, "au_pro": 0.3}
        exams[name] = {"rows": [{"experts": e, **figures} for e in ("both", "one")]}
    exams["nail"]["rows"].append({"experts": "new", **figures})
    keep(tmp_path, "try_experts", {"categories": exams})
    head, _, both, _, new = tried_table(tmp_path)
    assert head == "| experts | felt | nail | mean |"
    assert new == "| new | – | 0.700 | – |"
    assert both == "| both | 0.600 | 0.700 | 0.650 |"


def test_a_curve_has_one_row_for_every_length_and_width(tmp_path):
    assert curve_table(tmp_path) == ["No curve was measured yet."]
    figures = {"image_auroc": 0.6, "pixel_auroc": 0.9, "au_pro": 0.3, "energy": 0.5}
    size = {"steps": 500, "width": 16, "parameters": 9000, "seconds": 41.3}
    made = {"category": "mvtec/felt", "image_size": 64, "seed": 0}
    made["rows"] = [size | figures]
    keep(tmp_path, "training_curve", made, "mvtec/felt_64px")
    row = "| 500 | 16 | 9000 | 41 | 0.500 | 0.600 | 0.900 | 0.300 |"
    assert row in curve_table(tmp_path)


def test_the_standing_choice_is_that_of_the_library():
    made = record(RESULTS, "choose_experts")
    network = PatchEnergy(3, width=8)
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    field = ProductOfExperts.from_images(network, images).field
    standing = {
        "cells": field.features.side / field.features.stride,
        "noise": field.noise,
        "share": GRADIENT_WEIGHT,
    }
    assert made["standing"] == standing
    made = record(RESULTS, "choose_registered")
    assert made["standing"] == {**standing, "loud": RATIO_PER_POSITION}
