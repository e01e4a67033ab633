"""The demo "Paint a defect" in headless Chromium: by mouse, keys and finger."""

import math
import random
from functools import partial

import pytest
from PIL import Image
from reader import EBM, Reader

SCRATCH = [(24, 15), (33, 16), (41, 18)]  # over the upper face of the nut


class Painter(Reader):
    """A reader with the front page, where the demo is."""

    @property
    def energy(self) -> float:
        self.settle()
        return self.get("ebm.state.result.energy")

    @property
    def verdict(self) -> str:
        self.settle()
        return self.figure("verdict")

    def move(self, label: str, value: float) -> None:
        slider = self.slider(label)
        slider.fill(str(value))
        slider.dispatch_event("input")
        self.settle()

    def paint(self, points: list[tuple[float, float]]) -> None:
        """A stroke of the real mouse through points in pixels of the part."""
        self.canvas.scroll_into_view_if_needed()
        box = self.canvas.bounding_box()
        self.drag(
            [(box["x"] + x * box["width"] / 64, box["y"] + y * box["height"] / 64)
             for x, y in points],
            steps=2,
        )  # fmt: skip
        self.settle()

    def under_stroke(self, reach: float = 3.0) -> bool:
        """Whether the map's maximum is a changed pixel, or within `reach` px of one.

        A cell of the network's grid is 4 px wide, so less than one cell beside it.
        """
        changed = self.get("Array.from(ebm.picture.changed())")
        y, x = divmod(self.get("ebm.state.result.peak"), 64)
        pixels = [divmod(p, 64) for p, on in enumerate(changed) if on]
        return any(math.hypot(x - px, y - py) <= reach for py, px in pixels)


@pytest.fixture
def painter(visit_demo):
    return partial(visit_demo, "paint", kind=Painter)


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_mouse_paints_energy_rises_map_points_verdict_flips(painter, scheme):
    reader = painter(scheme=scheme)
    assert reader.get("ebm.network.worker") is True  # also from file://
    before = reader.energy
    assert "normal" in reader.verdict
    reader.paint(SCRATCH)
    assert reader.energy > before
    assert "defective" in reader.verdict
    assert reader.under_stroke()
    reader.page.wait_for_timeout(1000)
    said = reader.demo.locator("[aria-live]").inner_text()
    assert "Verdict: defective" in said and "column" in said
    reader.press("Undo all")
    assert math.isclose(reader.energy, before, rel_tol=1e-12)
    assert "normal" in reader.verdict


def test_keys_paint(painter):
    reader = painter()
    before = reader.energy
    reader.canvas.focus()
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
    assert reader.under_stroke()
    painted = reader.energy
    keys.press("ArrowDown")
    assert reader.energy == painted  # the pen is up again


def test_map_points_at_random_strokes(painter):
    """100 strokes of ordinary contrast on the face of the nut, at least 95 hits."""
    reader, draw, hits = painter(), random.Random(0), 0
    for i in range(100):
        reader.press("New part" if i % 10 == 0 else "Undo all")
        if i % 2 == 0:
            reader.move("Ink", 0.35 if i % 4 else -0.35)
        around, angle = draw.uniform(0, 2 * math.pi), draw.uniform(0, math.pi)
        x, y = 32 + 16 * math.cos(around), 32 + 16 * math.sin(around)
        dx, dy = 5 * math.cos(angle), 5 * math.sin(angle)
        reader.paint([(x - dx, y - dy), (x, y), (x + dx, y + dy)])
        hits += reader.under_stroke()
    assert hits >= 95


def test_every_control_does_its_work(painter, tmp_path):
    reader = painter()
    clean = reader.energy
    reader.press("Scratch")
    assert reader.energy > clean
    reader.press("Undo all")
    reader.press("Spot")
    assert reader.energy > clean
    # The eraser brings the part back.
    reader.press("Undo all")
    reader.paint(SCRATCH)
    reader.press("Eraser")
    reader.move("Brush size", 8)
    reader.paint(SCRATCH)
    assert math.isclose(reader.energy, clean, rel_tol=1e-9)
    reader.press("Brush")
    reader.paint([(20, 20)])  # a dab of 8 px
    assert reader.energy > clean
    # Light: the picture changes, and more than a little of it counts.
    reader.press("Undo all")
    for label in ("Brightness", "Contrast"):
        reader.move(label, 1.3)
        assert reader.energy != clean
        reader.press("Undo all")  # also sets the light back
        assert math.isclose(reader.energy, clean, rel_tol=1e-12)
    # Maps.
    look = "Array.from(ebm.state.result.shares)"
    weighted = reader.get(look)
    reader.choose("gradient")
    gradient = reader.get(look)
    assert weighted != gradient
    reader.choose("raw")
    raw = reader.get(look)
    assert math.isclose(max(raw), 1.0) and raw not in (gradient, weighted)
    reader.move("Map smoothing", 5)
    assert reader.get(look) != raw
    plain = reader.looks()
    reader.page.get_by_label("Map over the part").check()
    assert reader.looks() != plain
    # Pictures.
    reader.press("New part")
    first = reader.energy
    assert first != clean
    reader.press("A real defect")
    assert reader.energy != first
    assert "test set" in reader.demo.inner_text()
    photo, own = tmp_path / "photo.png", reader.page.get_by_label("Your own picture")
    Image.effect_noise((90, 70), 80).convert("RGB").save(photo)
    own.set_input_files(photo)
    reader.page.get_by_text("stays on this device").wait_for()
    assert "defective" in reader.verdict  # noise is no nut
    (tmp_path / "broken.png").write_text("no picture")
    own.set_input_files(tmp_path / "broken.png")
    reader.page.get_by_text("could not be read").wait_for()


def test_real_defects_have_an_outline_and_a_kind(painter):
    reader, kinds = painter(), set()
    for _ in range(5):
        reader.press("A real defect")
        note = reader.demo.locator(".ebm-note", has_text="true mask").inner_text()
        kinds.add(note.split("(")[1].split(")")[0])
        assert 0 < reader.get("ebm.state.truth.reduce((a, b) => a + b)") < 64 * 64 / 2
    assert len(kinds) == 5


def test_it_computes_in_the_page_where_no_worker_starts(painter):
    script = "window.Worker = class { constructor() { throw new Error('no'); } };"
    reader = painter(script=script)
    assert reader.get("ebm.network.worker") is False
    before = reader.energy
    reader.paint(SCRATCH)
    assert reader.energy > before


def test_it_goes_on_where_a_worker_dies_at_its_start(painter):
    script = "URL.createObjectURL = () => 'blob:null/nothing-here';"
    reader = painter(script=script)
    assert reader.get("ebm.network.worker") is False
    reader.paint(SCRATCH)
    assert "defective" in reader.verdict
    reader.problems = [p for p in reader.problems if "blob" not in p]


def test_a_finger_paints(painter):
    reader = painter(viewport={"width": 390, "height": 844}, has_touch=True)
    before, box = reader.energy, reader.canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["width"] / 4
    reader.page.touchscreen.tap(x, y)
    assert reader.energy != before


STROKES = f"""
    async (count) => {{
      const part = document.querySelector('.ebm-demo canvas'), side = part.clientWidth;
      const box = part.getBoundingClientRect();
      const send = (type, x, y) => part.dispatchEvent(new PointerEvent(type, {{
        pointerId: 1, button: 0, clientX: box.left + x, clientY: box.top + y }}));
      part.setPointerCapture = () => {{}}; // there is no such pointer
      for (let k = 0; k < count; k++) {{
        const x = Math.random() * 0.8 * side, y = Math.random() * 0.8 * side;
        send('pointerdown', x, y);
        send('pointermove', x + 0.1 * side, y + 0.05 * side);
        send('pointerup', x + 0.1 * side, y + 0.05 * side);
        if (k % 10 === 9) await {EBM}.settled();
      }}
    }}
"""


def test_memory_is_flat_over_two_thousand_strokes(painter):
    reader = painter()
    tools = reader.context.new_cdp_session(reader.page)

    def heap() -> float:
        reader.settle()
        tools.send("HeapProfiler.collectGarbage")
        return tools.send("Runtime.getHeapUsage")["usedSize"] / 1e6

    reader.page.evaluate(STROKES, 200)
    start, clean = heap(), reader.get("ebm.times.length")
    reader.page.evaluate(STROKES, 2000)
    assert heap() - start < 1.0  # MB
    assert reader.get("ebm.times.length") > clean  # maps were drawn all along
