"""What every demo of the built book must do, in headless Chromium."""

import pytest
from reader import HTML, PAGES, load_script

demos = load_script("book/_ext/demos.py")
NAMES = sorted(PAGES)
ALL = "[...document.querySelectorAll('.ebm-demo :is({})')]"


def pages_with_demos() -> dict[str, list[str]]:
    """Path of every built page that has demos: their names."""
    found = {}
    for path in sorted(HTML.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        names = [name for name in demos.DEMOS if f'data-demo="{name}"' in text]
        if names:
            found[path.relative_to(HTML).as_posix()] = names
    return found


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_every_demo_starts_and_draws_on_every_page(visit_demo, scheme):
    found = pages_with_demos()
    assert {name for names in found.values() for name in names} == set(demos.DEMOS)
    assert PAGES.items() <= {(n, p) for p, names in found.items() for n in names}
    if scheme == "http":  # once each
        found = {path: found[path] for path in PAGES.values()}
    for path, names in found.items():
        reader = visit_demo(path, scheme)
        assert reader.demo.count() == len(names)
        reader.page.wait_for_function(
            "() => [...document.querySelectorAll('.ebm-demo canvas')]"
            ".filter((c) => c.clientWidth).every((c) => new Set(new Uint32Array("
            "c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)"
            ").size > 3)"
        )
        assert "could not start" not in reader.demo.inner_text()
        reader.context.close()


@pytest.mark.parametrize("name", NAMES)
def test_everything_has_a_name_is_reached_by_keys_and_is_told(visit_demo, name):
    reader = visit_demo(name)
    page = reader.page
    nameless = page.evaluate(
        f"() => {ALL.format('button, select, input, canvas')}"
        ".filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim()"
        " || e.labels?.[0]?.textContent.trim())).length"
    )
    assert nameless == 0
    wanted = page.evaluate(
        f"() => {ALL.format('button, select, input, canvas[tabindex]')}"
        ".filter((e) => !e.disabled && e.checkVisibility()).length"
    )
    page.evaluate(
        "() => { const e = document.querySelector('.ebm-demo');"
        " e.tabIndex = -1; e.focus(); }"
    )
    reached = set()
    for _ in range(wanted):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(f"() => {ALL.format('*')}.indexOf(document.activeElement)")
        )
    assert len(reached - {-1}) == wanted
    reader.key(reader.demo.locator("input[type=range]:visible").first, "ArrowRight")
    spoken = "document.querySelector('.ebm-demo [aria-live=polite]').textContent"
    page.wait_for_function(f"() => {spoken}.length > 10")


@pytest.mark.parametrize("name", NAMES)
def test_a_phone_of_360_px_in_both_themes(visit_demo, name):
    """No sideways scrolling, canvases as sharp as the screen, colors of the theme."""
    reader = visit_demo(
        name,
        viewport={"width": 360, "height": 740},
        has_touch=True,
        device_scale_factor=2,
    )
    page, width = reader.page, "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= 360
    for choice in reader.demo.locator("select").all():
        values = choice.locator("option").evaluate_all("(o) => o.map((e) => e.value)")
        for value in values if choice.is_visible() else ():
            choice.select_option(value)
            reader.settle()
            assert page.evaluate(width) <= 360, value
    ratios = page.evaluate(
        f"() => {ALL.format('canvas')}.filter((c) => c.clientWidth)"
        ".map((c) => c.width / c.clientWidth)"
    )
    assert all(ratio == pytest.approx(2, abs=0.02) for ratio in ratios)
    ground = "getComputedStyle(document.querySelector('.ebm-demo')).backgroundColor"
    seen, brightness = [], []
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        seen.append(reader.looks())
        brightness.append(sum(map(int, page.evaluate(ground)[4:-1].split(","))))
    assert brightness[0] > 600 and brightness[1] < 150
    assert seen[0] != seen[1]


MODES = {
    "sculpt": ["sculpt", "wells"],
    "threshold": ["images", "maps"],
    "watch": ["points", "images"],
}  # what the first list chooses decides which controls there are


@pytest.mark.parametrize("name", MODES)
def test_every_slider_list_and_box_works_by_keyboard_and_mouse(visit_demo, name):
    reader = visit_demo(name)
    for mode in MODES[name]:
        reader.choose(mode)
        for control in reader.demo.locator("input[type=range]:visible").all():
            before, words = reader.looks(), control.get_attribute("aria-valuetext")
            low, high, value = (
                float(control.evaluate(f"(e) => Number(e.{key})"))
                for key in ("min", "max", "value")
            )
            right = value <= (low + high) / 2
            reader.key(control, "ArrowRight" if right else "ArrowLeft", times=3)
            assert control.get_attribute("aria-valuetext") != words
            between = reader.looks()
            assert between != before, words
            control.scroll_into_view_if_needed()
            box = control.bounding_box()
            control.click(
                position={"x": (0.75 if right else 0.25) * box["width"], "y": 8}
            )
            assert reader.looks() != between, words
        for control in reader.demo.locator("input[type=checkbox]:visible").all():
            before = reader.looks()
            reader.key(control, "Space")
            between = reader.looks()
            control.click()
            assert reader.looks() == before != between
    for choice in reader.demo.locator("select:visible").all():
        before, value = reader.looks(), choice.input_value()
        first = choice.evaluate("(e) => e.selectedIndex") == 0
        reader.key(choice, "ArrowDown" if first else "ArrowUp")
        assert choice.input_value() != value
        assert reader.looks() != before
        choice.select_option(value)
        assert choice.input_value() == value
