"""The demo "Paint a defect" in headless Chromium, painted by mouse, keys and finger."""

import importlib.util
import math
import os
import random
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location(
    "paint_frame_time", ROOT / "benchmarks" / "paint_frame_time.py"
)
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
DEMO, wait = bench.DEMO, bench.wait

REQUIRED = os.environ.get("EBMLIB_REQUIRE_BROWSER") == "1"
MISSING = [
    name
    for name, found in (
        ("Chromium (apt-get install chromium)", bench.chromium()),
        ("Playwright (pip install playwright)", importlib.util.find_spec("playwright")),
    )
    if not found
]
pytestmark = pytest.mark.skipif(
    bool(MISSING) and not REQUIRED, reason=f"not installed: {', '.join(MISSING)}"
)


@pytest.fixture(scope="module")
def browser():
    assert not MISSING, MISSING
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = bench.launch(playwright)
        yield running
        running.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return bench.write_page(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def server(site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = partial(Quiet, directory=str(site.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/{site.name}"
        running.shutdown()


class Reader:
    """A reader with a page, a mouse and a keyboard."""

    def __init__(self, browser, url: str, script: str = "", **options) -> None:
        options = {"viewport": {"width": 900, "height": 1000}} | options
        self.context, self.url = browser.new_context(**options), url
        self.page, self.problems, self.requests = self.context.new_page(), [], []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self.hear)
        self.page.on("request", lambda request: self.requests.append(request.url))
        if script:
            self.page.add_init_script(script)
        self.page.goto(url)
        wait(self.page)
        self.part = self.page.get_by_label("The part, to paint on")

    def hear(self, message) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def get(self, name: str):
        return self.page.evaluate(f"{DEMO}.{name}")

    @property
    def energy(self) -> float:
        wait(self.page)
        return self.get("result.energy")

    @property
    def verdict(self) -> str:
        wait(self.page)
        return self.page.locator("[data-key=verdict] .ebm-value").inner_text()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()
        wait(self.page)

    def move(self, label: str, value: float) -> None:
        slider = self.page.get_by_label(label)
        slider.fill(str(value))
        slider.dispatch_event("input")
        wait(self.page)

    def drag(self, points: list[tuple[float, float]]) -> None:
        """A stroke of the real mouse through points in pixels of the picture."""
        self.part.scroll_into_view_if_needed()
        box = self.part.bounding_box()
        places = [(box["x"] + x * box["width"] / 64, box["y"] + y * box["height"] / 64)
                  for x, y in points]  # fmt: skip
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=2)
        self.page.mouse.up()

    def leave(self) -> None:
        """Close; nothing may have gone wrong or gone out."""
        self.context.close()
        assert not self.problems, self.problems
        here = urlsplit(self.url)
        for url in self.requests:
            parts = urlsplit(url)
            assert parts.scheme in ("blob", "data") or parts[:2] == here[:2], url


@pytest.fixture(params=["file", "http"])
def reader(request, browser, site, server):
    found = Reader(browser, site.as_uri() if request.param == "file" else server)
    yield found
    found.leave()


@pytest.fixture
def local(browser, site):
    found = Reader(browser, site.as_uri())
    yield found
    found.leave()


SCRATCH = [(24, 15), (33, 16), (41, 18)]  # over the upper face of the nut


def under_stroke(reader: Reader, reach: float = 2.0) -> bool:
    """Whether the map's maximum lies on a changed pixel, or within `reach` of one."""
    changed = reader.page.evaluate(f"Array.from({DEMO}.picture.changed())")
    peak = reader.get("result.peak")
    y, x = divmod(peak, 64)
    pixels = [divmod(p, 64) for p, on in enumerate(changed) if on]
    return any(math.hypot(x - px, y - py) <= reach for py, px in pixels)


def test_mouse_paints_energy_rises_map_points_verdict_flips(reader):
    assert reader.get("network.worker") is True  # also from file://
    before = reader.energy
    assert "normal" in reader.verdict
    reader.drag(SCRATCH)
    assert reader.energy > before
    assert "defective" in reader.verdict
    assert under_stroke(reader)
    reader.page.wait_for_timeout(1000)
    said = reader.page.locator("[aria-live]").inner_text()
    assert "Verdict: defective" in said and "column" in said
    reader.press("Undo all")
    assert math.isclose(reader.energy, before, rel_tol=1e-12)
    assert "normal" in reader.verdict


def test_keys_paint(reader):
    before = reader.energy
    reader.part.focus()
    keys = reader.page.keyboard
    for _ in range(4):  # from the middle up to the face
        keys.press("Shift+ArrowUp")
    keys.press("ArrowRight")
    assert reader.energy == before  # the pen is still up
    keys.press("Space")
    for _ in range(8):
        keys.press("ArrowRight")
    keys.press("Space")
    assert reader.energy > before
    assert "defective" in reader.verdict
    assert under_stroke(reader)
    painted = reader.energy
    keys.press("ArrowDown")
    assert reader.energy == painted  # the pen is up again


def test_map_points_at_random_strokes(local):
    """100 strokes of ordinary contrast on the face of the nut, at least 95 hits."""
    draw, hits = random.Random(0), 0
    for i in range(100):
        if i % 10 == 0:
            local.press("New part")
        local.press("Undo all")
        local.move("Ink: darker or lighter", 0.3 if i % 2 else -0.3)
        around, angle = draw.uniform(0, 2 * math.pi), draw.uniform(0, math.pi)
        x, y = 32 + 16 * math.cos(around), 32 + 16 * math.sin(around)
        dx, dy = 5 * math.cos(angle), 5 * math.sin(angle)
        local.drag([(x - dx, y - dy), (x, y), (x + dx, y + dy)])
        wait(local.page)
        hits += under_stroke(local)
    assert hits >= 95


def test_every_control_does_its_work(local, tmp_path):
    clean = local.energy
    local.press("Scratch")
    scratched = local.energy
    assert scratched > clean
    local.press("Undo all")
    local.press("Spot")
    assert local.energy > clean
    # The eraser brings the part back.
    local.press("Undo all")
    local.drag(SCRATCH)
    local.press("Eraser")
    local.move("Brush size", 8)
    local.drag(SCRATCH)
    assert math.isclose(local.energy, clean, rel_tol=1e-9)
    local.press("Brush")
    local.drag([(20, 20)])  # a dab of 8 px
    assert local.energy > clean
    # Light: the picture changes, and more than a little of it counts.
    local.press("Undo all")
    for label in ("Brightness of the picture", "Contrast of the picture"):
        local.move(label, 1.3)
        assert local.energy != clean
        local.press("Undo all")  # also sets the light back
        assert math.isclose(local.energy, clean, rel_tol=1e-12)
    # Maps.
    look = f"Array.from({DEMO}.result.shares)"
    standard = local.page.evaluate(look)
    local.page.get_by_label("Map", exact=True).select_option("raw")
    raw = local.page.evaluate(look)
    assert math.isclose(max(raw), 1.0) and raw != standard
    local.move("Smoothing of the map", 5)
    assert local.page.evaluate(look) != raw
    picture = "document.querySelector('.ebm-demo canvas').toDataURL()"
    plain = local.page.evaluate(picture)
    local.page.get_by_label("Lay the map over the part").check()
    local.page.wait_for_function(f"{picture} !== {plain!r}")
    # Pictures.
    local.press("New part")
    assert local.energy != clean
    first = local.energy
    local.press("A real defect")
    assert local.energy != first
    assert "test set" in local.page.locator(".ebm-body").inner_text()
    photo = tmp_path / "photo.png"
    Image.effect_noise((90, 70), 80).convert("RGB").save(photo)
    local.page.get_by_label("Your own picture").set_input_files(photo)
    local.page.get_by_text("stays on this device").wait_for()
    assert "defective" in local.verdict  # noise is no nut
    (tmp_path / "broken.png").write_text("no picture")
    local.page.get_by_label("Your own picture").set_input_files(tmp_path / "broken.png")
    local.page.get_by_text("could not be read").wait_for()


def test_real_defects_have_an_outline_and_a_kind(local):
    kinds = set()
    for _ in range(5):
        local.press("A real defect")
        note = local.page.locator(".ebm-note", has_text="true mask").inner_text()
        kinds.add(note.split("(")[1].split(")")[0])
    assert len(kinds) == 5


def test_it_computes_in_the_page_where_no_worker_starts(browser, site):
    script = "window.Worker = class { constructor() { throw new Error('no'); } };"
    reader = Reader(browser, site.as_uri(), script=script)
    assert reader.get("network.worker") is False
    before = reader.energy
    reader.drag(SCRATCH)
    assert reader.energy > before
    reader.leave()


def test_it_goes_on_where_a_worker_dies_at_its_start(browser, site):
    script = "URL.createObjectURL = () => 'blob:null/nothing-here';"
    reader = Reader(browser, site.as_uri(), script=script)
    assert reader.get("network.worker") is False
    reader.drag(SCRATCH)
    assert "defective" in reader.verdict
    reader.problems = [p for p in reader.problems if "blob" not in p]
    reader.leave()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_and_takes_a_finger(browser, site, theme):
    reader = Reader(
        browser,
        site.as_uri(),
        script=f"document.documentElement.dataset.theme = {theme!r};",
        viewport={"width": 390, "height": 844},
        has_touch=True,
    )
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= 390
    before = reader.energy
    box = reader.part.bounding_box()
    reader.page.touchscreen.tap(
        box["x"] + box["width"] / 2, box["y"] + box["width"] / 4
    )
    assert reader.energy != before
    reader.leave()


def test_memory_is_flat_over_two_thousand_strokes(local):
    tools = local.context.new_cdp_session(local.page)
    draw = random.Random(1)

    def heap() -> float:
        wait(local.page)
        tools.send("HeapProfiler.collectGarbage")
        return tools.send("Runtime.getHeapUsage")["usedSize"] / 1e6

    def strokes(count: int) -> None:
        for _ in range(count):
            x, y = draw.uniform(8, 50), draw.uniform(8, 50)
            local.drag([(x, y), (x + 6, y + 3)])

    strokes(100)
    start = heap()
    strokes(2000)
    assert heap() - start < 1.0  # MB
