"""What the browser tests share: headless Chromium, a quiet server, a watched page.

A test asks for the fixture `browser` (tests/conftest.py) and opens pages with `visit`.
Without Chromium or Playwright such tests skip and say what is missing, unless
EBMLIB_REQUIRE_BROWSER=1 or EBMLIB_REQUIRE_BOOK=1 says that they must run.
"""

import importlib.util
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-dev-shm-usage"),
)
SLOW = 120_000  # milliseconds; a busy machine is slow, not broken
REQUIRED = "1" in (
    os.environ.get("EBMLIB_REQUIRE_BROWSER"),
    os.environ.get("EBMLIB_REQUIRE_BOOK"),
)


def chromium() -> str | None:
    """Where the browser is, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def missing() -> str:
    """What a browser test lacks here; empty when nothing."""
    lacks = []
    if chromium() is None:
        lacks.append("Chromium (apt-get install chromium)")
    if importlib.util.find_spec("playwright") is None:
        lacks.append("Playwright (pip install playwright)")
    return " and ".join(lacks)


def launch(playwright):
    """This machine's browser, headless, with a fresh profile."""
    return playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, prints nothing, and has no favicon to miss."""

    def log_message(self, *_args) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """A file, or an empty answer for the icon that browsers ask for."""
        if self.path == "/favicon.ico":
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on the loopback address; yields the address."""
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def visit(browser, url: str, **options) -> Iterator:
    """Open a page; on the way out, it had no error and asked for nothing outside.

    `options` go to the browser's context: viewport, color_scheme, reduced_motion, ...
    """
    options = {"viewport": {"width": 1200, "height": 900}} | options
    inside = ("data:", "blob:", "file:" if url.startswith("file:") else origin(url))
    problems = []

    def note_request(request) -> None:
        if not request.url.startswith(inside):
            problems.append(f"outside request: {request.url}")

    def note_message(message) -> None:
        if message.type == "error":
            problems.append(f"{message.text} {message.location.get('url', '')}")

    with browser.new_context(**options) as context:
        context.set_default_timeout(SLOW)
        page = context.new_page()
        page.on("request", note_request)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", note_message)
        page.goto(url)
        yield page
    assert not problems, (url, problems)


def origin(url: str) -> str:
    """Scheme, host and port of an address."""
    return "/".join(url.split("/")[:3])
