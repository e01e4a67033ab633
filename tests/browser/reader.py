"""A reader of a demo: a window of the built book with a mouse, a keyboard and a finger.

The fixture `browser` is headless Chromium, `visit_demo` opens a demo in it. Where
Chromium, Playwright or a fresh build of the book is missing their tests skip, unless
EBMLIB_REQUIRE_BOOK=1 says that they must run.
"""

import importlib.util
import shutil
import threading
from pathlib import Path

import pytest
from test_built_book import HTML, REQUIRED, ROOT, VENDORED, stale

PAGES = {  # a page of the book with this demo
    "paint": "book/index.html",
    "sculpt": "notebooks/02_energies_in_one_and_two_dimensions.html",
    "threshold": "notebooks/08_detect_with_energy.html",
    "watch": "notebooks/04_contrastive_divergence.html",
}
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-dev-shm-usage"),
]
EBM = "document.querySelector('.ebm-demo').ebm"  # what a demo lets be looked at
LOOKS = """() => {
  let hash = 0;
  for (const canvas of document.querySelectorAll('.ebm-demo canvas')) {
    if (!canvas.clientWidth) continue;
    const g = canvas.getContext('2d');
    const { data } = g.getImageData(0, 0, canvas.width, canvas.height);
    for (const v of new Uint32Array(data.buffer)) hash = Math.imul(hash ^ v, 16777619);
  }
  return hash + document.querySelector('.ebm-body').innerText;
}"""


def load_script(path: str):
    """A script of the repository as a module; none of them is in a package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chromium() -> str | None:
    """Where the browser is, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def launch(playwright):
    """This machine's browser, headless, with a fresh profile."""
    return playwright.chromium.launch(executable_path=chromium(), args=FLAGS)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium."""
    lacks = [] if chromium() else ["Chromium (apt-get install chromium)"]
    if importlib.util.find_spec("playwright") is None:
        lacks.append("Playwright (pip install playwright)")
    if lacks and not REQUIRED:
        pytest.skip(f"needs {' and '.join(lacks)}")
    assert not lacks, f"this test may not be skipped here, and needs {lacks}"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = launch(playwright)
        yield running
        running.close()


@pytest.fixture(scope="session")
def book():
    """Addresses of the built book: on the disk, and from a server on this machine."""
    if stale() and not REQUIRED:
        pytest.skip("no fresh build of the book: make book OPEN=0")
    with load_script("tools/serve_book.py").start(0, HTML) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        yield {"file": HTML.as_uri(), "http": f"http://127.0.0.1:{port}"}
        server.shutdown()


@pytest.fixture
def visit_demo(book, browser):
    """visit_demo(name) opens a demo, or a page; nothing may go wrong meanwhile."""
    readers = []

    def go(name: str, scheme: str = "file", kind: type = Reader, **options):
        address = f"{book[scheme]}/{PAGES.get(name, name)}"
        readers.append(kind(browser, address, **options))
        return readers[-1]

    yield go
    for reader in readers:
        reader.leave()


class Reader:
    """One window with one demo; `problems` collects what should not happen."""

    def __init__(self, browser, address: str, script: str = "", **options):
        options = {"viewport": {"width": 900, "height": 1000}} | options
        self.context = browser.new_context(**{"reduced_motion": "reduce"} | options)
        self.context.set_default_timeout(120_000)  # a busy machine is slow, not broken
        self.page, self.problems = self.context.new_page(), []
        scheme, _, host = address.split("/")[:3]
        self.inside = ("data:", "blob:", f"{scheme}//{host}")
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", self._watch)
        if script:
            self.page.add_init_script(script)
        self.page.goto(address, wait_until="domcontentloaded")
        self.page.wait_for_selector(".ebm-demo[data-ready] canvas")
        self.demo = self.page.locator(".ebm-demo")
        self.canvas = self.demo.locator("canvas").first
        self.canvas.scroll_into_view_if_needed()
        self.settle()

    def _hear(self, message) -> None:
        if message.type == "error":
            self.problems.append(f"{message.text} {message.location.get('url', '')}")

    def _watch(self, request) -> None:
        # Without npm the book takes its libraries from a CDN.
        if VENDORED and not request.url.startswith(self.inside):
            self.problems.append(f"outside request: {request.url}")

    def leave(self) -> None:
        """Close the window; nothing may have gone wrong or out."""
        self.context.close()
        assert not self.problems, self.problems

    # --- What the reader sees ---------------------------------------------------------

    def get(self, expression: str):
        """A value of an expression of `ebm`, which the demo lets be looked at."""
        return self.page.evaluate(
            f"(() => {{ const ebm = {EBM}; return {expression}; }})()"
        )

    def wait(self, condition: str) -> None:
        """Until a condition on `ebm` holds."""
        self.page.wait_for_function(
            f"() => {{ const ebm = {EBM}; return {condition}; }}"
        )

    def settle(self) -> None:
        """Until what was asked for is computed and drawn."""
        self.page.evaluate(f"{EBM}.settled?.()")
        drawn = "requestAnimationFrame(() => setTimeout(done, 20))"
        self.page.evaluate(f"() => new Promise((done) => {drawn})")

    def looks(self) -> str:
        """Everything that is seen: the canvases and the words."""
        self.settle()
        return self.page.evaluate(LOOKS)

    def figure(self, key: str) -> str:
        """The text of a named figure."""
        return self.demo.locator(f"[data-key={key}] .ebm-value").first.inner_text()

    # --- What the reader does ---------------------------------------------------------

    def button(self, words: str):
        """The visible button with these words."""
        return self.demo.locator("button:visible", has_text=words).first

    def press(self, words: str) -> None:
        """Press a button and wait for what it does."""
        self.button(words).click()
        self.settle()

    def slider(self, words: str):
        """The slider whose label has these words."""
        return self.demo.locator(".ebm-slider", has_text=words).locator("input")

    def key(self, control, key: str, times: int = 1) -> None:
        """Press a key on a control."""
        control.focus()
        for _ in range(times):
            self.page.keyboard.press(key)
        self.settle()

    def choose(self, value: str) -> None:
        """Choose from the first list that has this value."""
        self.demo.locator(f"select:has(option[value={value}])").select_option(value)
        self.settle()

    def center(self, locator) -> tuple[float, float]:
        """The middle of an element in the window."""
        box = locator.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(self, points: list[tuple[float, float]], steps: int = 4) -> None:
        """Press the mouse at the first point, move through the others, let go."""
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point, steps=steps)
        self.page.mouse.up()
