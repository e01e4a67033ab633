"""The exported network: the page's JavaScript computes what PyTorch computes."""

import base64
import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from ebmbook import browser
from ebmlib.data import load
from ebmlib.energy import value_and_gradient
from ebmlib.metrics import au_pro, image_auroc
from ebmlib.networks import PatchEnergy
from ebmlib.scoring import (
    MapStandardizer,
    energy_score,
    gradient_map,
    smooth,
    weighted_map,
)

ROOT = Path(__file__).resolve().parents[2]
DEMOS = ROOT / "book" / "_static" / "demos"
MODEL, IMAGES = DEMOS / "data" / "nut_model.js", DEMOS / "data" / "nut_images.js"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed")
SMALL = browser.Settings(train=16, held_out=20, width=2, blocks=1, steps=3)


def run_node(script: str, payload: object, folder: Path) -> object:
    """What `script` returns in Node; it sees `input`, `math`, `Painting`, `read`."""
    (folder / "input.json").write_text(json.dumps(payload))
    program = (
        f"const math = require({json.dumps(str(DEMOS / 'patch_energy.js'))});"
        f"const Painting = require({json.dumps(str(DEMOS / 'painting.js'))});"
        f"const read = (f) => require({json.dumps(str(DEMOS / 'data'))} + '/' + f);"
        "const input = JSON.parse(require('fs').readFileSync('input.json', 'utf8'));"
        f"const run = () => {{ {script} }};"
        "console.log(JSON.stringify(run()));"
    )
    done = subprocess.run(
        [NODE, "-e", program], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def relative(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.abs(found - true).max() / np.abs(true).max())


@pytest.fixture(scope="module")
def model() -> dict:
    return browser.read_script(MODEL)


@pytest.fixture(scope="module")
def energy(model) -> PatchEnergy:
    return browser.energy_from(model)


@pytest.fixture(scope="module")
def test_set(model):
    settings = model["settings"]
    return load(settings["category"], size=settings["size"], n_train=0)


def twenty_random_twenty_real(test_set) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((20, *test_set.image_shape), generator=generator)
    real = test_set.test[:: len(test_set.test) // 20][:20]
    return torch.cat([noise, real])


RUN = """
    const energy = new math.PatchEnergy(input.model, ...(input.shape ?? []));
    return input.images.map((x) => {
      const r = energy.energyAndGradient(Float64Array.from(x));
      return [r.energy, Array.from(r.map), Array.from(r.gradient)];
    });
"""


def compare(energy: PatchEnergy, images: torch.Tensor, model: dict, folder: Path):
    payload = {
        "model": {key: model[key] for key in ("config", "weights")},
        "shape": images.shape[-2:],
        "images": images.flatten(1).tolist(),
    }
    found = run_node(RUN, payload, folder)
    exact = energy.double()
    values, gradients = value_and_gradient(exact, images.double())
    maps = exact.energy_map(images.double()).detach()
    for (value, cells, gradient), E, e, g in zip(
        found, values, maps, gradients, strict=True
    ):
        assert math.isclose(value, float(E), rel_tol=1e-9)
        assert relative(np.array(cells), e.flatten().numpy()) < 1e-9
        assert relative(np.array(gradient), g.flatten().numpy()) < 1e-9


@needs_node
def test_energy_map_and_gradient_equal_pytorch(model, energy, test_set, tmp_path):
    images = twenty_random_twenty_real(test_set)
    assert len(images) == 40
    compare(browser.energy_from(model), images, model, tmp_path)


@needs_node
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"width": 3, "blocks": 3, "coordinates": True}, (32, 48)),
        ({"width": 5, "blocks": 1, "stride": 8, "normalize": False}, (48, 40)),
        ({"channels": 1, "width": 4, "blocks": 2}, (24, 24)),
    ],
)
def test_other_networks_equal_pytorch_too(options, shape, tmp_path):
    torch.manual_seed(0)
    energy = PatchEnergy(**{"channels": 3, **options})
    for parameter in energy.parameters():  # biases and head are not zero any more
        torch.nn.init.normal_(parameter, std=0.2)
    images = torch.rand((4, energy.channels, *shape))
    model = {"config": energy.config(), "weights": browser.weights_to_text(energy)}
    compare(energy, images, model, tmp_path)


@needs_node
def test_gradient_is_the_slope_of_the_energy(model, test_set, tmp_path):
    script = """
        const energy = new math.PatchEnergy(read('nut_model.js'));
        const x = Float64Array.from(input), step = 1e-5;
        const { gradient } = energy.energyAndGradient(x), g = gradient.slice();
        return Array.from({ length: 60 }, (_, k) => {
          const i = (k * 2411) % x.length, [there, back] = [x.slice(), x.slice()];
          there[i] += step;
          back[i] -= step;
          return [(energy.energy(there) - energy.energy(back)) / (2 * step), g[i]];
        });
    """
    image = test_set.test[-1].flatten().tolist()
    slopes, gradient = np.array(run_node(script, image, tmp_path)).T
    assert relative(gradient, slopes) < 1e-6


@needs_node
def test_maps_equal_the_library(model, energy, test_set, tmp_path):
    images = test_set.test[-4:]
    script = """
        const energy = new math.PatchEnergy(read('nut_model.js'));
        const smooth = (m, w) => math.smooth(m, 64, 64, w);
        return input.images.map((x) => {
          const { gradient, map } = energy.energyAndGradient(Float64Array.from(x));
          const norm = math.channelNorm(gradient, 3);
          const cells = math.upsample(map, 16, 16, 64, 64);
          return input.widths.map((w) => {
            const g = smooth(norm, w);
            const both = math.weighted(g, smooth(cells, w), input.share);
            return [Array.from(g), Array.from(both)];
          });
        });
    """
    payload = {"images": images.flatten(1).tolist()}
    payload |= {key: model[key] for key in ("widths", "share")}
    found = np.array(run_node(script, payload, tmp_path))  # (N, widths, 2, H * W)
    for k, width in enumerate(model["widths"]):
        for i, build in enumerate((gradient_map, weighted_map)):
            true = build(energy, images, smoothing=width).flatten(1).numpy()
            assert relative(found[:, k, i], true) < 1e-4  # the library's are float32


@needs_node
def test_smoothing_mirrors_borders_and_small_tools_count(tmp_path):
    maps = torch.rand((1, 9, 6), generator=torch.Generator().manual_seed(1)).double()
    script = """
        const map = Float64Array.from(input.map), sorted = [1, 2, 2, 5];
        return {
          smooth: input.widths.map((w) => Array.from(math.smooth(map, 9, 6, w))),
          share: [0, 1, 2, 3, 9].map((v) => math.shareBelow(sorted, v)),
          peak: math.argmax([0, 3, 7, 7, 1]),
          norm: Array.from(math.channelNorm(Float64Array.of(3, 0, 4, 1), 2)),
        };
    """
    widths = [0, 0.4, 1.3, 4.0]  # the last one reaches beyond the whole map
    payload = {"map": maps.flatten().tolist(), "widths": widths}
    found = run_node(script, payload, tmp_path)
    for values, width in zip(found["smooth"], widths, strict=True):
        assert np.allclose(values, smooth(maps, width).flatten(), atol=1e-12)
    assert found["share"] == [0, 0, 0.25, 0.75, 1]
    assert found["peak"] == 2
    assert found["norm"] == [5, 1]


@needs_node
def test_painting_keeps_to_its_rules(tmp_path):
    script = """
        const p = new Painting(64), grey = new Float64Array(3 * 64 * 64).fill(0.5);
        const touched = () => p.changed().reduce((a, b) => a + b, 0);
        p.load(grey);
        const ink = [0.2, 0.2, 0.2];
        p.stroke(20, 20, 1.5, ink);
        p.stroke(40, 20, 1.5, ink); // the same stroke meets its own start once
        const top = Math.max(...p.paint), share = touched();
        p.begin();
        for (const x of [20, 40]) p.stroke(x, 20, 4, null); // erase
        const left = touched();
        p.load(grey);
        p.scratch(-0.3);
        const scratch = touched();
        p.load(grey);
        p.spot(0.3);
        const spot = touched();
        p.load(Float64Array.from(grey, (_, i) => (i % 2 ? 0.4 : 0.6)));
        const lit = Array.from(p.lit(1.2, 0.5).slice(0, 2));
        return { top, share, left, scratch, spot, lit };
    """
    found = run_node(script, None, tmp_path)
    assert math.isclose(found["top"], 0.7)
    assert 40 < found["share"] < 110  # 20 px long, 3 to 4 px wide
    assert found["left"] == 0
    assert 8 < found["scratch"] < 80
    assert 8 < found["spot"] < 80
    assert np.allclose(found["lit"], [1.2 * 0.55, 1.2 * 0.45])


@needs_node
def test_a_scratch_of_ordinary_contrast_is_flagged(model, tmp_path):
    script = """
        const model = read('nut_model.js'), { normals } = read('nut_images.js');
        const energy = new math.PatchEnergy(model), p = new Painting(model.size, 1);
        const flagged = [];
        for (const text of normals) {
          const bytes = math.decodeBytes(text), area = bytes.length / 3;
          const place = (i) => (i % area) * 3 + Math.floor(i / area);
          const x = Float64Array.from(bytes, (_, i) => bytes[place(i)] / 255);
          p.load(x);
          flagged.push([energy.energy(p.paint)]);
          for (let k = 0; k < 10; k++) {
            p.load(x);
            p.scratch(k % 2 ? -0.35 : 0.35);
            flagged.at(-1).push(energy.energy(p.paint));
          }
        }
        return flagged;
    """
    found = np.array(run_node(script, None, tmp_path))  # (parts, 1 + 10)
    clean, painted = found[:, 0], found[:, 1:]
    threshold = model["threshold"]["value"]
    assert (painted > clean[:, None]).mean() > 0.95
    assert (painted > threshold).mean() >= 0.9
    assert (clean > threshold).sum() <= 2  # 5 % of eight parts


# ---------------------------------------------------------------- the files


def test_node_and_python_read_the_same_files(model, tmp_path):
    if NODE is None:
        pytest.skip("Node is not installed")
    for path in (MODEL, IMAGES):
        found = run_node(f"return read({path.name!r});", None, tmp_path)
        assert found == browser.read_script(path)


def test_the_file_is_small_and_says_how_it_was_made(model):
    assert MODEL.stat().st_size <= 300_000
    settings = browser.Settings(**model["settings"])
    assert model["command"] == settings.command()
    assert f"// Written by: {model['command']}\n" == MODEL.open().readline()
    options = vars(browser.parse(model["command"].split()[3:]))
    assert {k: options[k] for k in model["settings"]} == model["settings"]
    assert {"ebmlib", "torch", "numpy", "python"} <= model["versions"].keys()


def test_the_data_have_not_changed_since(model, test_set):
    levels = browser.gray_levels(test_set.test)
    assert levels == pytest.approx(model["data"]["levels"], abs=1e-4), (
        "the drawn images are not those of the export; run: " + model["command"]
    )


def test_the_recipe_has_not_changed_since(model):
    settings = browser.Settings(**model["settings"])
    images = load(settings.category, size=settings.size, n_train=16, n_test=0)
    losses = browser.trial(images.train, settings)
    assert losses == pytest.approx(model["trial"], rel=1e-3), (
        f"the exported network would be another one now; run: {model['command']}"
    )


def test_the_quality_on_the_page_is_true(model, energy, test_set):
    stated = model["quality"]
    scores = energy_score(energy, test_set.test)
    value, low, high = stated["image_auroc"]
    assert low <= value <= high
    assert math.isclose(image_auroc(scores, test_set.labels), value, abs_tol=2e-3)
    for kind, build in (("gradient", gradient_map), ("weighted", weighted_map)):
        maps = build(energy, test_set.test, smoothing=model["smoothing"])
        pro = au_pro(maps, test_set.masks)
        assert math.isclose(pro, stated[kind]["au_pro"][0], abs_tol=2e-3)
    found = int((scores[test_set.labels] > model["threshold"]["value"]).sum())
    assert abs(found - stated["found"]) <= 1


def test_threshold_keeps_the_false_alarm_rate(model):
    energies, threshold = model["energies"], model["threshold"]
    assert energies == sorted(energies)
    above = sum(e > threshold["value"] + 1e-4 for e in energies)
    assert above <= threshold["rate"] * len(energies)
    assert above >= threshold["rate"] * len(energies) - 2


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8)


def test_pictures_are_the_test_images(test_set):
    content = browser.read_script(IMAGES)
    kinds = list(dict.fromkeys(k for k in test_set.kinds if k != "good"))
    assert [d["kind"] for d in content["defects"]] == kinds * browser.SHOWN_DEFECTS
    drawn = json.loads(json.dumps(browser.pictures(test_set)))
    assert [len(drawn[k]) for k in drawn] == [len(content[k]) for k in drawn]
    for here, there in zip(
        [*drawn["normals"], *(d["image"] for d in drawn["defects"])],
        [*content["normals"], *(d["image"] for d in content["defects"])],
        strict=True,
    ):  # one gray level: processors differ in the last bit of a sine
        assert np.abs(as_bytes(here).astype(int) - as_bytes(there)).max() <= 1
    for here, there in zip(drawn["defects"], content["defects"], strict=True):
        differ = np.unpackbits(as_bytes(here["mask"]) ^ as_bytes(there["mask"]))
        assert differ.sum() <= 2
    assert IMAGES.stat().st_size < 400_000


def test_weights_survive_the_round_trip(tmp_path):
    torch.manual_seed(0)
    energy = PatchEnergy(3, width=3, blocks=2, coordinates=True)
    model = {"config": energy.config(), "weights": browser.weights_to_text(energy)}
    path = tmp_path / "model.js"
    path.write_text(browser.to_script("MODEL", model, "a command"))
    again = browser.energy_from(browser.read_script(path))
    for a, b in zip(energy.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="weights"):
        browser.energy_from(model | {"weights": model["weights"][: 4 * 40]})
    path.write_text("const MODEL = 1;")
    with pytest.raises(ValueError, match="not a script"):
        browser.read_script(path)


def test_only_drawn_images_are_exported():
    with pytest.raises(ValueError, match="drawn"):
        browser.make(browser.Settings(category="mvtec/bottle"))


def test_the_command_gives_the_same_bits_again(tmp_path, capsys):
    words = [*SMALL.command().split()[3:], "--out", str(tmp_path)]
    browser.main(words)
    first = (tmp_path / "nut_model.js").read_bytes()
    browser.main([*words, "--check"])
    assert "the same bits" in capsys.readouterr().out
    (tmp_path / "nut_model.js").write_bytes(first.replace(b"0", b"1", 1))
    with pytest.raises(SystemExit, match="other bits"):
        browser.main([*words, "--check"])


@pytest.mark.skipif(
    os.environ.get("EBMLIB_REPRODUCE") != "1",
    reason="trains for minutes: set EBMLIB_REPRODUCE=1 (same processor, versions)",
)
def test_the_published_file_is_made_again_bit_for_bit(model):
    found = browser.scripts(browser.Settings(**model["settings"]))
    assert found[MODEL.name] == MODEL.read_text(encoding="ascii")
    assert found[IMAGES.name] == IMAGES.read_text(encoding="ascii")


def test_standardizer_statistics_are_those_of_the_library(model, energy):
    settings, statistics = model["settings"], model["standardizer"]
    some = load(settings["category"], size=64, n_train=48, n_test=0, n_defective=0)
    sharp = browser.sharp_maps(energy, some.train)
    for k, width in enumerate(model["widths"]):
        for kind, maps in browser.maps_at(sharp, width).items():
            one, stated = MapStandardizer("global").fit(maps), statistics[kind]
            assert math.isclose(float(one.mean_), stated["mean"][k], rel_tol=0.2)
            assert math.isclose(float(one.std_), stated["std"][k], rel_tol=0.3)
