"""The mathematics of the demos, run in Node, against the library and closed forms."""

import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage, special

from ebmlib import metrics
from ebmlib.energy import input_gradient
from ebmlib.toy import (
    DoubleWellEnergy,
    GaussianEnergy,
    GaussianMixtureEnergy,
    RingEnergy,
)

DEMOS = Path(__file__).resolve().parents[2] / "book" / "_static" / "demos"
NODE = shutil.which("node")
REQUIRED = os.environ.get("EBMLIB_REQUIRE_BROWSER") == "1"
pytestmark = pytest.mark.skipif(
    NODE is None and not REQUIRED,
    reason="Node.js is not installed (apt install nodejs)",
)


def node(module: str, code: str, data=None):
    """What `code` returns; it sees the module as M and `data` as data."""
    script = (
        f"const M = require({json.dumps(str(DEMOS / module))});"
        "const data = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        "const plain = (k, v) => ArrayBuffer.isView(v) ? Array.from(v) : v;"
        f"console.log(JSON.stringify((() => {{ {code} }})(), plain));"
    )
    done = subprocess.run(
        [NODE, "-e", script], input=json.dumps(data), capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- energies of two variables --------------------------------------------------------


def two_moons() -> GaussianMixtureEnergy:
    angles = torch.linspace(0, math.pi, 9, dtype=torch.float64)
    arc = 1.7 * torch.stack([angles.cos() - 0.5, angles.sin() - 0.25], dim=1)
    stds = torch.full((18,), 0.28, dtype=torch.float64)
    return GaussianMixtureEnergy(torch.cat([arc, -arc]), stds)


COVARIANCE = [[1.0, 0.6], [0.6, 0.8]]
ENERGIES = {
    "M.gaussian([0.3, -0.2], [[1, 0.6], [0.6, 0.8]])": GaussianEnergy(
        torch.tensor([0.3, -0.2]).double(), torch.tensor(COVARIANCE).double()
    ),
    "M.mixture([[0, 1], [2, -1]], [0.5, 0.8], [1, 3])": GaussianMixtureEnergy(
        torch.tensor([[0.0, 1.0], [2.0, -1.0]]).double(),
        torch.tensor([0.5, 0.8]).double(),
        torch.tensor([1.0, 3.0]).double(),
    ),
    "M.twoMoons()": two_moons(),
    "M.ring(2, 0.25)": RingEnergy(2.0, 0.25),
    "M.doubleWell(4, 1.5, 0.5)": DoubleWellEnergy(4.0, 1.5, 0.5),
}
SCULPTED = (
    "M.sculpted([{x: -1.5, y: 0.6, height: -5, size: 0.7},"
    " {x: 0.3, y: 1.4, height: 3, size: 0.6}], 0.25)"
)
EVERY = [*ENERGIES, SCULPTED]


def points(n: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 6 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 3


def evaluated(energy: str, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    code = (
        f"const e = {energy};"
        "return data.map(([x, y]) => [e.value(x, y), ...e.gradient(x, y)]);"
    )
    found = torch.tensor(node("langevin_math.js", code, at.tolist())).double()
    return found[:, 0], found[:, 1:]


@pytest.mark.parametrize("energy", ENERGIES)
def test_energies_and_gradients_are_those_of_the_library(energy):
    x, ours = points(), ENERGIES[energy]
    value, gradient = evaluated(energy, x)
    assert torch.allclose(value, ours(x), rtol=1e-5, atol=1e-6)
    assert torch.allclose(gradient, input_gradient(ours, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("energy", EVERY)
def test_gradients_are_those_of_finite_differences(energy):
    code = (
        f"const e = {energy}, h = 1e-5; return data.map(([x, y]) => ["
        "(e.value(x + h, y) - e.value(x - h, y)) / (2 * h),"
        "(e.value(x, y + h) - e.value(x, y - h)) / (2 * h)]);"
    )
    x = points()
    differences = torch.tensor(node("langevin_math.js", code, x.tolist())).double()
    _, gradient = evaluated(energy, x)
    assert torch.allclose(gradient, differences, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("energy", ENERGIES)
def test_z_is_known_and_the_grid_finds_it(energy):
    code = (
        f"const e = {energy}, g = M.grid(8, 320), d = M.density(M.energyGrid(e, g), g);"
        "const sum = d.p.reduce((a, b) => a + b, 0) * g.side * g.side;"
        "return [e.logZ, d.logZ, sum];"
    )
    known, found, total = node("langevin_math.js", code)
    assert known == pytest.approx(ENERGIES[energy].log_partition(), abs=1e-6)
    assert found == pytest.approx(known, abs=1e-3)
    assert total == pytest.approx(1)


def test_z_on_the_demos_own_grid_is_good_enough_to_read():
    code = (
        "const g = M.grid(3.5, 72); return ["
        "M.gaussian([0, 0], [[0.25, 0], [0, 1]]), M.twoMoons(), M.ring(2, 0.25),"
        "M.doubleWell()].map((e) => [e.logZ, M.density(M.energyGrid(e, g), g).logZ]);"
    )
    for known, found in node("langevin_math.js", code):
        assert math.exp(found) == pytest.approx(math.exp(known), rel=0.005)


def test_z_of_a_sculpture_agrees_with_a_finer_grid():
    code = (
        f"const e = {SCULPTED}; return [72, 400].map((n) => {{ const g = M.grid(12, n);"
        "return M.density(M.energyGrid(e, g), g).logZ; });"
    )
    coarse, fine = node("langevin_math.js", code)
    assert coarse == pytest.approx(fine, abs=1e-3)


def test_a_density_at_another_temperature_is_that_of_the_divided_energy():
    code = (
        "const g = M.grid(6, 120), e = (c) => M.energyGrid(M.gaussian([0, 0], c), g);"
        "const a = M.density(e([[2, 0], [0, 0.5]]), g, 0.25).p;"
        "const b = M.density(e([[0.5, 0], [0, 0.125]]), g).p;"
        "return Math.max(...a.map((v, i) => Math.abs(v - b[i])));"
    )
    assert node("langevin_math.js", code) < 1e-12


def test_the_marginal_of_a_gaussian():
    code = (
        "const g = M.grid(5, 200), e = M.gaussian([0, 0], [[0.25, 0], [0, 1]]);"
        "const m = M.marginal(M.density(M.energyGrid(e, g), g).p, g);"
        "return [m, M.coarser(m), Array.from(m, (_, i) => g.center(i))];"
    )
    found, coarse, x = map(np.array, node("langevin_math.js", code))
    exact = np.exp(-(x**2) / 0.5) / math.sqrt(2 * math.pi * 0.25)
    assert np.allclose(found, exact, atol=1e-4)
    assert np.allclose(coarse, found.reshape(-1, 2).mean(1))


def test_the_error_function():
    x = np.linspace(-7, 7, 141)
    found = node("langevin_math.js", "return data.map(M.erf);", x.tolist())
    assert np.allclose(found, special.erf(x), rtol=0, atol=1e-13)


# --- random numbers and particles -----------------------------------------------------


def test_random_numbers_repeat_and_have_the_right_moments():
    code = (
        "const r = M.random(7), again = M.random(7), other = M.random(8);"
        "const n = Array.from({length: 200000}, r.normal);"
        "const same = n.slice(0, 50).every((v) => v === again.normal());"
        "const u = Array.from({length: 100000}, other.uniform);"
        "const mean = (f) => n.reduce((s, v) => s + f(v), 0) / n.length;"
        "return [same, mean((v) => v), mean((v) => v * v), mean((v) => v ** 4),"
        "u.reduce((s, v) => s + v, 0) / u.length, Math.min(...u), Math.max(...u)];"
    )
    same, mean, square, fourth, uniform, low, high = node("langevin_math.js", code)
    assert same
    assert mean == pytest.approx(0, abs=0.01)
    assert square == pytest.approx(1, abs=0.02)
    assert fourth == pytest.approx(3, abs=0.1)
    assert uniform == pytest.approx(0.5, abs=0.005)
    assert 0 <= low < 0.001 and 0.999 < high < 1


@pytest.mark.parametrize("step", [0.02, 0.2, 0.42])
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_particles_on_a_gaussian_have_the_variance_of_the_discrete_chain(
    step, temperature
):
    """v = noise^2 / (1 - (1 - step a)^2): the temperature and the bias of the step."""
    code = (
        "const e = M.gaussian([0, 0], [[0.25, 0], [0, 1]]), { step } = data;"
        "const cloud = M.particles(4000, 1);"
        "const noise = M.noiseFor(step, data.temperature);"
        "const steps = 12 / step, sums = [0, 0, 0, 0]; let info;"
        "for (let t = 0; t < steps; t++) {"
        "  info = M.advance(cloud, e, { step, noise });"
        "  if (t >= steps / 2) { sums[0]++; sums[1] += M.variance(cloud.x);"
        "    sums[2] += M.variance(cloud.y); sums[3] += M.meanEnergy(cloud, e); } }"
        "return [sums[1] / sums[0], sums[2] / sums[0], sums[3] / sums[0], noise,"
        "M.restingVariance(4, step, noise), M.restingVariance(1, step, noise),"
        "info.escaped, info.clipped, info.rms, info.driftToNoise];"
    )
    data = {"step": step, "temperature": temperature}
    found = node("langevin_math.js", code, data)
    vx, vy, energy, noise, rest_x, rest_y, escaped, clipped, rms, ratio = found
    assert noise == pytest.approx(math.sqrt(2 * step * temperature))
    assert rest_x == pytest.approx(noise**2 / (1 - (1 - 4 * step) ** 2))
    assert rest_y == pytest.approx(noise**2 / (1 - (1 - step) ** 2))
    assert vx == pytest.approx(rest_x, rel=0.03)
    assert vy == pytest.approx(rest_y, rel=0.05)
    assert energy == pytest.approx((4 * vx + vy) / 2, rel=0.02)
    assert escaped == 0 and clipped == 0
    assert rms == pytest.approx(math.sqrt((16 * vx + vy) / 2), rel=0.1)
    assert ratio == pytest.approx(step * rms / noise)


def test_too_large_a_step_has_no_rest():
    rest = node("langevin_math.js", "return M.restingVariance(4, 0.5, 1) === Infinity;")
    assert rest


def test_a_step_without_noise_is_that_of_the_library_and_clips_like_it():
    code = (
        f"const e = {SCULPTED}, cloud = M.particles(30, 3);"
        "const place = () => [[...cloud.x], [...cloud.y]], before = place();"
        "const info = M.advance(cloud, e, {step: 0.1, noise: 0, clip: 0.5});"
        "return [before, place(), info.clipped, info.driftToNoise === Infinity];"
    )
    before, after, clipped, infinite = node("langevin_math.js", code)
    x = torch.tensor(before).double().T
    _, gradient = evaluated(SCULPTED, x)
    moved = x - 0.1 * gradient.clamp(-0.5, 0.5)
    assert torch.allclose(moved.T, torch.tensor(after).double())
    assert clipped == pytest.approx(float((gradient.abs() > 0.5).double().mean()))
    assert 0 < clipped < 1 and infinite


def test_particles_that_explode_start_anew_and_are_counted():
    code = (
        "const cloud = M.particles(50, 1), e = M.doubleWell(); let escaped = 0;"
        "for (let t = 0; t < 60; t++)"
        "  escaped += M.advance(cloud, e, {step: 0.9, noise: 0.1}).escaped;"
        "return [escaped, [...cloud.x, ...cloud.y].every(Number.isFinite)];"
    )
    escaped, finite = node("langevin_math.js", code)
    assert escaped > 50 and finite


def test_the_histogram_finds_the_density_and_tells_a_biased_chain():
    code = (
        "const g = M.grid(3.5, 36), e = M.gaussian([0, 0], [[0.25, 0], [0, 1]]);"
        "const exact = M.marginal(M.density(M.energyGrid(e, g), g).p, g);"
        "return [[0.02, 1], [0.42, 1], [0.02, 0.02]].map(([step, T]) => {"
        "  const cloud = M.particles(400, 1), h = M.memory(g);"
        "  const noise = M.noiseFor(step, T);"
        "  for (let t = 0; t < 1500; t++) {"
        "    M.advance(cloud, e, {step, noise}); h.add(cloud, 0.995); }"
        "  return M.totalVariation(exact, M.marginal(h.density(), g), g.side); });"
    )
    good, large, cold = node("langevin_math.js", code)
    assert good < 0.05 < 0.3 < large
    assert cold > 0.5


def test_total_variation_counts_what_lies_outside():
    code = "return [[1, 1], [0, 0]].map((q) => M.totalVariation([1, 1], q, 0.5));"
    assert node("langevin_math.js", code) == [0, 1]


# --- thresholds -----------------------------------------------------------------------


def scored(ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.random(150) < 0.4
    scores = rng.normal(size=150) + 1.2 * labels
    return (np.round(scores, 1) if ties else scores), labels


@pytest.mark.parametrize("ties", [False, True])
def test_curves_and_areas_are_those_of_the_library(ties):
    scores, labels = scored(ties)
    code = (
        "const [s, l] = data, roc = M.rocCurve(s, l), pr = M.prCurve(s, l);"
        "return [roc.fpr, roc.recall, roc.thresholds.slice(1), M.auroc(s, l),"
        "M.averagePrecision(s, l), pr.recall, pr.precision];"
    )
    data = [scores.tolist(), labels.tolist()]
    fpr, tpr, thresholds, area, ap, recall, precision = node(
        "threshold_math.js", code, data
    )
    ours = metrics.roc_curve(scores, labels)
    assert np.allclose(fpr, ours[0]) and np.allclose(tpr, ours[1])
    assert np.allclose(thresholds, ours[2][1:])
    assert area == pytest.approx(metrics.image_auroc(scores, labels), abs=1e-12)
    assert ap == pytest.approx(metrics.average_precision(scores, labels), abs=1e-12)
    assert np.allclose(recall, ours[1][1:])
    flagged = [(scores >= t).sum() for t in thresholds]
    assert np.allclose(np.array(precision) * flagged, ours[1][1:] * labels.sum())


@pytest.mark.parametrize("ties", [False, True])
def test_confusion_at_every_threshold(ties):
    scores, labels = scored(ties)
    at = [-9.0, *np.unique(scores)[::7].tolist(), 9.0]
    code = "return data.at.map((t) => M.confusion(data.scores, data.labels, t));"
    data = {"at": at, "scores": scores.tolist(), "labels": labels.astype(int).tolist()}
    for t, found in zip(at, node("threshold_math.js", code, data), strict=True):
        flagged = scores >= t
        assert found["tp"] == (flagged & labels).sum()
        assert found["fp"] == (flagged & ~labels).sum()
        assert found["fn"] == (~flagged & labels).sum()
        assert found["tn"] == (~flagged & ~labels).sum()
        assert found["fpr"] == pytest.approx(flagged[~labels].mean())
        assert found["recall"] == pytest.approx(flagged[labels].mean())
        share = labels[flagged].mean() if flagged.any() else None  # NaN is null in JSON
        assert found["precision"] == (share and pytest.approx(share))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("n", [9, 19, 40])
def test_the_threshold_from_held_out_normals(n, rate):
    held_out = np.random.default_rng(n).normal(size=n)
    code = "return M.conformalThreshold(data.held, data.rate);"
    data = {"held": held_out.tolist(), "rate": rate}
    rank = min(math.ceil((n + 1) * (1 - rate)), n)  # as detector._threshold
    expected = np.sort(held_out)[rank - 1]
    assert node("threshold_math.js", code, data) == pytest.approx(expected)


def test_a_shift_on_the_line():
    code = "return M.shift({fpr: 0.05, recall: 0.9}, 2000, 0.02);"
    shift = node("threshold_math.js", code)
    assert shift["falseAlarms"] == pytest.approx(98)
    assert shift["found"] == pytest.approx(36)
    assert shift["missed"] == pytest.approx(4)
    assert shift["precision"] == pytest.approx(36 / 134)


def binned_maps() -> tuple[np.ndarray, np.ndarray, list, list, int]:
    rng = np.random.default_rng(5)
    masks = ndimage.gaussian_filter(rng.normal(size=(6, 24, 24)), (0, 2, 2)) > 0.22
    masks[0] = False
    maps = ndimage.gaussian_filter(rng.normal(size=masks.shape) + masks, (0, 1, 1))
    bins = np.digitize(maps, np.linspace(-0.5, 1.2, 30))
    count, regions = 31, []
    for image, mask in zip(bins, masks, strict=True):
        labeled, found = ndimage.label(mask, structure=np.ones((3, 3)))
        for k in range(1, found + 1):
            regions.append(np.bincount(image[labeled == k], minlength=count).tolist())
    normal = np.bincount(bins[~masks], minlength=count).tolist()
    return bins, masks, normal, regions, count


def test_the_pro_curve_and_its_area_are_those_of_the_library():
    bins, masks, normal, regions, count = binned_maps()
    code = (
        "const c = M.proCurve(data.normal, data.regions);"
        "return [c, [0.05, 0.3, 1].map((limit) => M.auPro(c, limit))];"
    )
    curve, areas = node(
        "threshold_math.js", code, {"normal": normal, "regions": regions}
    )
    for limit, area in zip((0.05, 0.3, 1.0), areas, strict=True):
        ours = metrics.au_pro(bins, masks, limit)
        assert area == pytest.approx(ours, abs=1e-12)
    assert curve["bins"] == list(range(count, -1, -1))
    for k, b in enumerate(curve["bins"]):
        shares = [sum(region[b:]) / sum(region) for region in regions]
        assert curve["pro"][k] == pytest.approx(np.mean(shares))
        assert curve["fpr"][k] == pytest.approx((bins[~masks] >= b).mean())
        assert curve["recall"][k] == pytest.approx((bins[masks] >= b).mean())


def test_histogram_dense_covered_bits_and_outline():
    code = (
        "const mask = [0,0,0,0, 0,1,1,1, 0,1,1,1, 0,1,1,1];"
        "return [M.histogram([0, 0.5, 1, 2.5, 9], [0, 1, 2, 3]),"
        "M.dense([[1, 4]], 3), M.covered([1, 2, 3, 4], 2),"
        "M.bits(new Uint8Array([130])), M.outline(mask, 4)];"
    )
    histogram, dense, covered, bits, outline = node("threshold_math.js", code)
    assert histogram == [2, 1, 2]
    assert dense == [0, 4, 0]
    assert covered == pytest.approx(0.7)
    assert bits == [1, 0, 0, 0, 0, 0, 1, 0]
    inner = [i for i, on in enumerate(outline) if not on]
    assert inner == [0, 1, 2, 3, 4, 8, 10, 12]


# --- the saved runs -------------------------------------------------------------------


def saved(name: str, code: str):
    if not (DEMOS / "data" / name).exists():
        pytest.fail(f"{name} is missing: python tools/export_demo_runs.py")
    return node(f"data/{name}", f"return {code};")


def test_the_saved_threshold_run_is_whole_and_its_areas_are_right():
    run = saved("threshold_run.js", "M")
    labels = np.array(run["kind"]) > 0
    scores = np.array(run["scores"])
    assert run["kinds"][0] == "good" and len(scores) == len(labels)
    assert run["image_auroc"] == pytest.approx(metrics.image_auroc(scores, labels))
    ap = metrics.average_precision(scores, labels)
    assert run["average_precision"] == pytest.approx(ap)
    assert 0.8 < run["image_auroc"] < 1, "too bad or too good to teach anything"
    maps = run["maps"]
    k = len(maps["edges"])
    assert len(maps["normal"]) == k and maps["edges"] == sorted(maps["edges"])
    code = (
        "const regions = data.regions.map((r) => M.dense(r, data.edges.length));"
        "return M.auPro(M.proCurve(data.normal, regions));"
    )
    found = node("threshold_math.js", code, maps)
    assert found == pytest.approx(maps["au_pro"], abs=1e-12)
    defective = sum(n for region in maps["regions"] for _, n in region)
    assert defective + sum(maps["normal"]) == len(scores) * maps["size"] ** 2
    assert len(run["held_out"]) == 99  # enough to promise 1 %


def test_the_saved_training_runs_show_what_they_are_named_after():
    code = "Object.fromEntries(Object.entries(M).map(([k, r]) => [k, r]))"
    for run in saved("watch_runs.js", code).values():
        good, bad = run["healthy"]["log"], run["diverging"]["log"]
        assert all(len(values) == run["steps"] for values in good.values())
        largest = max(map(abs, good["data"]))
        assert max(map(abs, bad["data"])) > 50 * largest
        assert max(map(abs, bad["gap"])) > 50 * max(map(abs, good["gap"]))
        tail = run["steps"] // 4
        assert abs(np.mean(good["gap"][-tail:])) < 0.5
    points = saved("watch_runs.js", "[M.points.healthy, M.points.diverging]")
    healthy, diverging = (run["distance"] for run in points)
    assert healthy[-1] < 0.3 < 0.6 < diverging[-1]
    assert healthy[-1] < healthy[0] / 2
