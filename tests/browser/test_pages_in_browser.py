"""The built pages in headless Chromium: offline, on a phone, in the dark, by keyboard.

They skip where the book is not built or no Chromium is found, unless
EBMLIB_REQUIRE_BOOK=1 says, as in .ci/run, that they must not.
"""

import threading
from contextlib import contextmanager
from itertools import pairwise

import pytest
from test_book import load_tool
from test_built_book import HTML, REQUIRED, ROOT, VENDORED, book_pages, stale

AXE = ROOT / "tests" / "vendor" / "axe-core" / "axe.min.js"
PHONE = {"viewport": {"width": 360, "height": 780}, "reduced_motion": "reduce"}
SCREEN_4K = {"viewport": {"width": 3840, "height": 2160}}
CHAPTER = "notebooks/09_localize_with_gradients.html"
SHOWN = ("book/index.html", CHAPTER, "book/status.html", "book/api/layer_2.html")

pytestmark = [
    pytest.mark.skipif(
        stale() and not REQUIRED, reason="no fresh build of the book: make book OPEN=0"
    ),
    pytest.mark.skipif(
        not VENDORED and not REQUIRED,
        reason="no npm here: MathJax comes from a CDN and axe-core is missing",
    ),
]
every_page = pytest.mark.parametrize(
    "path", [path.relative_to(HTML).as_posix() for path in book_pages()]
)
shown_pages = pytest.mark.parametrize("path", SHOWN)

MEASURE = """async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  const root = document.documentElement;
  const scrolls = (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  const inside = (e) => e && (scrolls(e) || inside(e.parentElement));
  const name = (e) => `${e.tagName} ${e.className} ${e.textContent.slice(0, 60)}`;
  const seen = [...document.querySelectorAll("article *")]
    .filter((e) => e.checkVisibility() && e.getClientRects().length);
  const over = (e) => e.getBoundingClientRect().right > root.clientWidth + 1;
  const forEars = (e) => e.closest("mjx-assistive-mml");
  const clipped = (e) => e.scrollWidth > e.clientWidth + 1 && !inside(e);
  return {
    scroll: root.scrollWidth - root.clientWidth,
    outside: seen.filter((e) => over(e) && !inside(e) && !forEars(e)).map(name),
    clipped: seen.filter((e) => e.matches("pre") && clipped(e)).map(name),
    headings: [...document.querySelectorAll("main :is(h1, h2, h3, h4, h5, h6)")]
      .filter((e) => e.checkVisibility()).map((e) => Number(e.tagName[1])),
    raw: seen.filter((e) => e.matches(".math") && !e.querySelector("mjx-container"))
      .map(name),
    wrong: [...document.querySelectorAll("mjx-merror")].map(name),
  };
}"""

FINDINGS = """async () => (await axe.run({preload: false}))
  .violations.filter((v) => ["serious", "critical"].includes(v.impact))
  .flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.html} ${n.any[0]?.message ?? ""}`))
"""


@pytest.fixture(scope="module")
def server():
    """The built book, served on this machine."""
    with load_tool("serve_book").start(0, HTML) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@contextmanager
def visit(browser, address: str, **options):
    """Open a page; on the way out: no error, and no request to anywhere else.

    `options` go to the browser's context: viewport, color_scheme, reduced_motion.
    """
    options = {"viewport": {"width": 1200, "height": 900}} | options
    inside = ("data:", "blob:", "/".join(address.split("/")[:3]))  # scheme, host, port
    problems = []

    def hear(message) -> None:
        if message.type == "error":
            problems.append(f"{message.text} {message.location.get('url', '')}")

    def watch(request) -> None:
        if not request.url.startswith(inside):
            problems.append(f"outside request: {request.url}")

    with browser.new_context(**options) as context:
        context.set_default_timeout(120_000)  # a busy machine is slow, not broken
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", hear)
        page.on("request", watch)
        page.goto(address)
        yield page
    assert not problems, problems


def url(path: str) -> str:
    """A page on the disk, as a reader opens it without any server."""
    return (HTML / path).as_uri()


@every_page
def test_every_page_reads_from_the_disk_on_a_phone(browser, path):
    """No error, no request outside, no raw formula, nothing wider than the page."""
    with visit(browser, url(path), **PHONE) as page:
        found = page.evaluate(MEASURE)
    headings = found.pop("headings")
    assert headings[0] == 1 and headings.count(1) == 1, headings
    steps = [b - a for a, b in pairwise(headings)]
    assert all(step <= 1 for step in steps), headings
    assert not any(found.values()), found


@shown_pages
def test_pages_read_from_a_server(browser, server, path):
    with visit(browser, f"{server}/{path}") as page:
        found = page.evaluate(MEASURE)
        del found["headings"]
        assert not any(found.values()), found


def test_formulas_are_typeset_for_eyes_and_for_screen_readers(browser):
    with visit(browser, url(CHAPTER)) as page:
        page.evaluate(MEASURE)
        assert page.locator("mjx-container").count() > 50
        assert page.locator("mjx-container mjx-assistive-mml math").count() > 50


def test_fonts_and_icons_come_from_the_book(browser):
    with visit(browser, url(CHAPTER)) as page:
        page.evaluate(MEASURE)
        loaded = page.evaluate(
            "[...document.fonts].filter((f) => f.status === 'loaded')"
            ".map((f) => f.family)"
        )
    assert any("Font Awesome" in family for family in loaded), loaded
    assert any("MJX" in family for family in loaded), loaded


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_finds_a_word(browser, server, scheme):
    base = server if scheme == "http" else HTML.as_uri()
    with visit(browser, f"{base}/search.html?q=langevin") as page:
        hits = page.locator("#search-results li a")
        hits.first.wait_for()
        page.wait_for_function("document.querySelector('#search-results p')")
        names = " ".join(hits.evaluate_all("(all) => all.map((a) => a.href)"))
    assert "03_langevin_sampling" in names


def test_the_theme_follows_the_reader_and_the_button(browser):
    ground = "getComputedStyle(document.body).backgroundColor"
    theme = "document.documentElement.dataset.theme"
    with visit(browser, url(CHAPTER), color_scheme="dark") as page:
        assert page.evaluate(theme) == "dark"
        dark = page.evaluate(ground)
        assert max(map(int, dark[4:-1].split(", "))) < 60, dark
        button = page.locator("button.theme-switch-button").locator("visible=true")
        for _ in range(3):
            button.first.click()
            if page.evaluate(theme) == "light":
                break
        light = page.evaluate(ground)
        assert min(map(int, light[4:-1].split(", "))) > 200, light


@shown_pages
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, path, scheme):
    assert AXE.exists(), "axe-core is missing: python tools/vendor_assets.py"
    options = {"color_scheme": scheme, "reduced_motion": "reduce"}
    with visit(browser, url(path), **options) as page:
        page.evaluate(MEASURE)
        page.add_script_tag(path=AXE)
        findings = page.evaluate(FINDINGS)
    assert not findings, "\n".join(findings)


@shown_pages
def test_the_keyboard_alone_is_enough(browser, path):
    focus = """() => {
      const e = document.activeElement, style = getComputedStyle(e);
      const box = e.getBoundingClientRect();
      return {
        name: `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 30)}`,
        seen: e.checkVisibility({checkOpacity: true}) && box.width > 0
          && box.right > 0 && box.left < innerWidth
          && box.bottom > 0 && box.top < innerHeight,
        marked: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0
          || style.boxShadow !== "none",
      };
    }"""
    with visit(browser, url(path), reduced_motion="reduce") as page:
        page.evaluate(MEASURE)
        page.keyboard.press("Tab")
        assert "Skip to main content" in page.evaluate(focus)["name"]
        for _ in range(15):
            for _ in range(100):  # the skip link slides in, on a long page slowly
                found = page.evaluate(focus)
                if found["seen"]:
                    break
                page.wait_for_timeout(20)
            assert found["seen"] and found["marked"], found
            page.keyboard.press("Tab")
        page.locator("text=Skip to main content").first.focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        in_main = "document.activeElement.closest('main') !== null"
        assert page.evaluate(in_main), page.evaluate(focus)


def test_nothing_moves_for_readers_who_ask_for_that(browser):
    longest = """() => Math.max(...[...document.querySelectorAll("*")].flatMap((e) => {
      const style = getComputedStyle(e);
      return [style.transitionDuration, style.animationDuration]
        .flatMap((t) => t.split(", ").map(parseFloat));
    }))"""
    with visit(browser, url(CHAPTER), reduced_motion="reduce") as page:
        assert page.evaluate(longest) < 0.01
        behavior = "getComputedStyle(document.documentElement).scrollBehavior"
        assert page.evaluate(behavior) == "auto"


@shown_pages
def test_a_very_large_screen_keeps_lines_short(browser, path):
    with visit(browser, url(path), **SCREEN_4K) as page:
        found = page.evaluate(MEASURE)
        width = page.locator("article p").first.bounding_box()["width"]
    assert found["scroll"] == 0
    assert 300 < width < 1000
