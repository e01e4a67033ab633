"""Checks of the built pages; skipped until `make book OPEN=0` has built them."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = Path(os.environ.get("EBMLIB_BUILT_BOOK", ROOT / "_build" / "html"))
VENDORED = (ROOT / "book" / "_static" / "vendor" / "versions.txt").exists()


def sources() -> list[Path]:
    patterns = ["book/*.md", "book/_ext/*.py", "notebooks/*.ipynb", "_*.yml"]
    return [path for pattern in patterns for path in ROOT.glob(pattern)]


def stale() -> bool:
    """Whether there is no build, or one older than what it was made from."""
    index = HTML / "searchindex.js"
    return not index.exists() or any(
        path.stat().st_mtime > index.stat().st_mtime for path in sources()
    )


REQUIRED = os.environ.get("EBMLIB_REQUIRE_BOOK") == "1"
pytestmark = pytest.mark.skipif(
    stale() and not REQUIRED, reason="no fresh build of the book: make book OPEN=0"
)


class Page(HTMLParser):
    """Collects what a page loads, links to, shows and can be linked at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads, self.links, self.images, self.ids = [], [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "img":
            self.images.append(found)
        if tag in {"script", "img", "iframe", "source"} and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in {"stylesheet", "preload"}:
            self.loads.append(found["href"])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])


def book_pages() -> list[Path]:
    folders = ("book", "book/api", "notebooks")
    return [p for f in folders for p in sorted((HTML / f).glob("*.html"))]


def test_the_book_is_built_and_fresh():
    assert book_pages()
    assert not stale()


@pytest.mark.skipif(not VENDORED, reason="no npm here: libraries come from a CDN")
def test_pages_load_nothing_from_the_network():
    for path in book_pages():
        outside = [u for u in Page(path).loads if urlsplit(u).netloc]
        assert not outside, f"{path.name} loads {outside}"


def test_what_pages_load_and_link_to_exists():
    pages = {path: Page(path) for path in book_pages()}
    for path, page in pages.items():
        for url in page.loads + page.links:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = Path(os.path.normpath(path.parent / unquote(parts.path)))
                assert target.exists(), f"{path.name}: {url}"
            if parts.fragment and target in pages:
                known = pages[target].ids
                assert unquote(parts.fragment) in known, f"{path.name}: {url}"


def test_every_image_has_alt_text():
    for path in book_pages():
        for image in Page(path).images:
            alt = image.get("alt") or ""
            name = Path(image.get("src", "")).name
            assert alt and alt != image.get("src") and name not in alt, (path, image)


def test_chapters_have_a_colab_button():
    for path in (HTML / "notebooks").glob("*.html"):
        address = "https://colab.research.google.com/github/"
        found = [link for link in Page(path).links if link.startswith(address)]
        assert any(f"notebooks/{path.stem}.ipynb" in link for link in found)


def test_mathematics_was_not_left_as_text():
    for path in book_pages():
        text = re.sub(r"<(script|pre|code)\b.*?</\1>", "", path.read_text(), flags=re.S)
        assert "$$" not in text, path


def test_a_chapter_opens_with_its_facts_and_a_picture_and_with_no_open_code():
    chapters = sorted((HTML / "notebooks").glob("[0-9][0-9]_*.html"))
    assert chapters
    for path in chapters:
        text = path.read_text(encoding="utf-8")
        order = ['<p class="eyebrow">', "<h1>", '<p class="chapter-facts">']
        order += ["<img", "In this chapter</p>", "<details", "<h2>"]
        article = text[text.index('<article class="bd-article"') :]
        places = [article.find(mark) for mark in order]
        assert places == sorted(places) and places[0] > 0, (path.name, places)
        facts = article[places[2] : article.index("</p>", places[2])]
        assert " to read" in facts and "no GPU" in facts, path.name
        opening = re.sub(
            r"<details.*?</details>", "", article[: places[-1]], flags=re.S
        )
        assert '<div class="cell_input' not in opening, path.name
