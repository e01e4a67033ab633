"""The report: one file that holds everything, asks for nothing, and counts rightly."""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.stats import binomtest

from ebmlib.commands.report import command
from ebmlib.data import synthetic
from ebmlib.data.mvtec_layout import LayoutError
from ebmlib.detector import EnergyDetector
from ebmlib.metrics import au_pro, image_auroc, share_interval
from ebmlib.pretrained import COSINE
from ebmlib.recipes import Fields
from ebmlib.report import write_report
from ebmlib.report.charts import ticks
from ebmlib.report.photographs import find_photographs
from ebmlib.report.pictures import outline

SIZE = 48


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """A folder in MVTec layout."""
    counts = {"n_train": 30, "n_test": 6, "n_defective": 2}
    return synthetic.write(tmp_path_factory.mktemp("parts"), "nut", size=SIZE, **counts)


@pytest.fixture(scope="module")
def detector(part):
    options = {"false_alarm_rate": 0.2, "aligned": True, "device": "cpu"}
    made = EnergyDetector(Fields(COSINE), SIZE, **options)
    return made.fit(part / "train" / "good")


@pytest.fixture(scope="module")
def whole(detector, part, tmp_path_factory):
    """A report with labels, masks and baselines: its numbers, and its page."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    good = part / "train" / "good"
    found = write_report(detector, part / "test", path, good=good, shown=3)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return found, Page(path)


class Page(HTMLParser):
    """What a page holds, element by element."""

    EMPTY = ("meta", "img", "input", "link", "br")

    def __init__(self, path):
        super().__init__()
        self.text, self.tags, self.open, self.words = (
            path.read_text("utf-8"),
            [],
            [],
            [],
        )
        self.feed(self.text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


# ------------------------------------------------------------------------ the numbers


def test_the_numbers_are_those_of_the_detector(whole, detector, part):
    found, _ = whole
    photos = find_photographs(part / "test")
    prediction = detector.predict(photos.paths)
    defective = np.array([sample.kind != "good" for sample in photos.samples])
    np.testing.assert_allclose(found.scores, prediction.scores, rtol=1e-5)
    assert found.found.count == int(prediction.anomalous.numpy()[defective].sum())
    assert found.false_alarms.total == 6 and found.found.total == 10
    measures = found.rows[0].measures
    auroc = image_auroc(prediction.scores, defective)
    assert measures["auroc"].value == pytest.approx(auroc)
    masks, _ = photos.read_masks(SIZE)
    assert measures["au_pro"].value == pytest.approx(au_pro(prediction.maps, masks))
    hit = (prediction.masks & masks).flatten(1).any(1).numpy()
    located = sum(kind.located.count for kind in found.kinds[1:])
    assert located == int(hit[defective].sum())


def test_trivial_baselines_stand_in_the_same_table(whole):
    found, page = whole
    labels = [row.label for row in found.rows[1:]]
    assert labels == ["mean brightness", "per-pixel Gaussian", "PCA reconstruction"]
    for row in found.rows:
        assert set(row.measures) == {"auroc", "ap", "au_pro"}
        assert row.label in page.words
        assert f"{row.measures['auroc'].value:.3f}" in " ".join(page.words)


def test_intervals_are_exact():
    for count, total in ((0, 7), (3, 7), (7, 7), (68, 71)):
        expected = binomtest(count, total).proportion_ci(0.95, "exact")
        np.testing.assert_allclose(share_interval(count, total), expected, atol=1e-9)
    assert share_interval(0, 0) == (0, 1)
    with pytest.raises(ValueError, match="count=8"):
        share_interval(8, 7)


# ------------------------------------------------------------------------ the page


def test_a_page_makes_no_request(whole):
    _, page = whole
    policy = next(m for m in page.all("meta") if "http-equiv" in m)["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "http://" not in page.text and "https://" not in page.text
    assert not page.all("link") and "url(" not in page.text
    sources = [attrs["src"] for tag, attrs in page.tags if "src" in attrs]
    assert sources and all(src.startswith("data:image/jpeg;base64,") for src in sources)
    links = [attrs["href"] for attrs in page.all("a")]
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {link.removeprefix("#") for link in links} <= ids
    assert len(page.text) < 2_000_000


def test_a_page_reads_without_eyes_and_without_a_mouse(whole):
    _, page = whole
    assert page.all("html") == [{"lang": "en"}] and len(page.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert all(image["alt"] for image in page.all("img"))
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or svg["role"] == "img"
    sliders = [one for one in page.all("input") if "aria-label" in one]
    assert len(sliders) == len(page.all("img")) / 2 > 0
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    names = " ".join(
        one for svg in page.all("svg") for one in svg.get("aria-labelledby", "").split()
    )
    assert set(names.split()) <= set(ids)
    assert len(page.all("caption")) == len(page.all("table")) >= 3


def luminance(color):
    shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares
    ]
    return np.dot((0.2126, 0.7152, 0.0722), linear)


def test_text_has_enough_contrast_in_light_and_in_dark(whole):
    _, page = whole
    themes = re.findall(r":root \{(.*?)\}", page.text, re.S)
    assert len(themes) == 2
    for theme in themes:
        colors = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        for back in ("paper", "panel", "note"):
            light = luminance(colors[back])
            for front in ("ink", "soft", "link", "ok", "bad"):
                pair = sorted((light, luminance(colors[front])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (back, front)


def test_galleries_show_the_right_photographs(whole):
    found, page = whole
    text = page.text
    shown = re.findall(r"<figcaption><b>([^<]+)</b><span class=\"(\w+)\">([^<]+)", text)
    highest = int(np.argmax(found.scores))
    assert shown[0][0] == find_names(found)[highest]
    for name, style, verdict in shown:
        place = find_names(found).index(name)
        wrong = bool(found.flagged[place]) != bool(found.defective[place])
        assert style == ("bad" if wrong else "ok"), verdict


def find_names(found):
    kinds = [kind.name for kind in found.kinds]
    return [
        f"{kind}/{i:03d}.png"
        for kind in kinds
        for i in range(6 if kind == "good" else 2)
    ]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
def test_names_are_text_and_no_markup(detector, part, tmp_path):
    folder = tmp_path / "<b>&'\"new"
    folder.mkdir()
    source = part / "test" / "good" / "000.png"
    (folder / "<img src=x onerror=alert(1)>.png").write_bytes(source.read_bytes())
    write_report(detector, folder, tmp_path / "r.html", title="<script>$x", shown=1)
    page = Page(tmp_path / "r.html")
    assert len(page.all("script")) == 1 and len(page.all("img")) == 2
    assert all("onerror" not in attrs for _, attrs in page.tags)
    assert "<script>$x" in page.words


# ------------------------------------------------------------------------ folders


def test_a_flat_folder_has_no_labels_and_no_curves(detector, part, tmp_path):
    found = write_report(detector, part / "test" / "hole", tmp_path / "r.htm")
    assert found.defective is None and found.found is None and not found.rows
    page = Page(tmp_path / "r.htm")
    assert "without labels" in page.words and "ROC" not in page.words


def test_a_folder_of_folders_has_labels(part, tmp_path):
    photos = find_photographs(part)
    assert photos.has_masks and photos.labeled and photos.names[0] == "good/000.png"
    assert find_photographs(part / "test").names == photos.names
    elsewhere = tmp_path / "elsewhere"
    for kind in ("good", "hole"):
        shutil.copytree(part / "test" / kind, elsewhere / kind)
    photos = find_photographs(elsewhere)
    assert photos.labeled and not photos.has_masks and not photos.notes
    assert {sample.kind for sample in photos.samples} == {"good", "hole"}


def test_one_class_alone_is_counted_and_not_measured(detector, part, tmp_path):
    shutil.copytree(part / "test" / "hole", tmp_path / "photos" / "hole")
    found = write_report(detector, tmp_path / "photos", tmp_path / "r.html", shown=0)
    assert found.found.total == 2 and found.false_alarms.total == 0
    assert not found.curves and any("good" in note for note in found.notes)


def test_what_cannot_be_read_is_refused_or_listed(detector, part, tmp_path):
    folder = shutil.copytree(part / "test" / "good", tmp_path / "photos")
    (folder / "broken.png").write_bytes(b"no image")
    path = tmp_path / "r.html"
    with pytest.raises(ValueError, match=r"broken\.png: not an image"):
        write_report(detector, folder, path)
    assert not path.exists()
    found = write_report(detector, folder, path, on_error="skip")
    assert [name for name, _ in found.skipped] == ["broken.png"]
    assert len(found.scores) == 6 and "broken.png" in Page(path).words


def test_masks_that_do_not_pair_up_are_refused_before_the_work(
    detector, part, tmp_path, monkeypatch
):
    copy = tmp_path / "test" / "hole"
    copy.mkdir(parents=True)
    (copy / "000.png").write_bytes((part / "test/hole/000.png").read_bytes())
    masks = tmp_path / "ground_truth" / "hole"
    masks.mkdir(parents=True)
    Image.new("L", (SIZE, SIZE), 255).save(masks / "001_mask.png")
    monkeypatch.setattr(EnergyDetector, "stream", None)  # nothing is scored
    with pytest.raises(LayoutError, match="has no mask"):
        write_report(detector, tmp_path / "test", tmp_path / "r.html")


@pytest.mark.parametrize("name", ["missing/r.html", "r.pdf", ".", "folder.html"])
def test_a_place_that_cannot_be_written_is_known_first(
    name, detector, tmp_path, monkeypatch
):
    (tmp_path / "folder.html").mkdir()
    monkeypatch.setattr(EnergyDetector, "stream", None)
    with pytest.raises(
        ValueError, match=r"cannot be written|an \.html file|is a folder"
    ):
        write_report(detector, tmp_path, tmp_path / name)


def test_a_failure_leaves_the_old_page(detector, part, tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("old")
    monkeypatch.setattr("ebmlib.report.write.os.replace", raises)
    with pytest.raises(OSError, match="full"):
        write_report(detector, part / "test" / "good", path, shown=0)
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def raises(*_):
    raise OSError("full")


# ------------------------------------------------------------------------ the command


def test_the_command_says_what_was_found(detector, part, tmp_path):
    detector.save(tmp_path / "part.safetensors")
    output = tmp_path / "report.html"
    words = [tmp_path / "part.safetensors", part / "test", "-o", output, "--json"]
    said = CliRunner().invoke(command, [str(word) for word in words])
    assert said.exit_code == 0, said.exception
    found = json.loads(said.stdout)
    assert found["photographs"] == 16 and found["good"] == 6 and 0 < found["auroc"] <= 1
    assert "part.safetensors" in Page(output).words


# ------------------------------------------------------------------------ the parts


def test_an_outline_runs_around_every_region():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:4] = True
    assert sorted(re.findall(r"M\d+ \d+[hv]\d+", outline(mask))) == [
        "M2 1h2",
        "M2 1v2",
        "M2 3h2",
        "M4 1v2",
    ]
    assert outline(np.zeros((3, 3), bool)) == ""
    steps = re.findall(r"[hv](\d+)", outline(np.ones((3, 7), bool)))
    assert sum(map(int, steps)) == 2 * (3 + 7)


def test_ticks_are_round_and_few():
    for low, high in ((0, 1), (-3.2, 41), (1e-4, 3e-4), (990, 1012)):
        found = ticks(low, high, 6)
        assert 2 <= len(found) <= 7
        assert low - 1e-9 <= found[0] and found[-1] <= high + 1e-9
        np.testing.assert_allclose(np.diff(found), np.diff(found)[0], rtol=1e-6)
