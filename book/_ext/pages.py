"""What the pages need beyond the theme: names for screen readers, and a way to report.

Every repair says why. They work on the written HTML, since the theme, not the book,
writes those places; a repair that finds nothing to do any more does no harm.
"""

import re
from pathlib import Path
from urllib.parse import quote

REPAIRS = [
    # Live code through a public server is switched off, but its loader is written,
    # twice, which is an error in the browser.
    (r"<script>const THEBE_JS_URL.*?</script>\s*", ""),
    (r'<script[^>]*(?:src="[^"]*sphinx-thebe|x-thebe-config).*?</script>\s*', ""),
    (r"<link[^>]*sphinx-thebe\.css[^>]*>\s*", ""),
    # Fonts asked for ahead of time with `crossorigin` are refused from a disk, loudly.
    # The style sheet asks again, and gets them.
    (r'<link rel="preload" as="font"[^>]*>\s*', ""),
    # The visible words are the better name.
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    (r'(<button class="btn search-button-field[^>]*?) aria-label="Search"', r"\1"),
    # A triangle in the list of pages has no words at all.
    (
        r'<summary>(<span class="toctree-toggle")',
        r'<summary aria-label="Pages below">\1',
    ),
    # A wide table scrolls sideways, so the keyboard must be able to reach it.
    (
        r'<div class="pst-scrollable-table-container">',
        '<div class="pst-scrollable-table-container" tabindex="0" role="group" '
        'aria-label="Table; scrolls sideways if it is wide">',
    ),
    # A parameter a line: Sphinx writes a list of definitions without terms.
    (
        r"<dl>\s*((?:<dd>(?:(?!</dd>).)*</dd>\s*)+)</dl>",
        r'<span class="sig-lines">\1</span>',
    ),
    (
        r'<dd>(<em class="sig-param">(?:(?!</dd>).)*)</dd>',
        r'<span class="sig-line">\1</span>',
    ),
]


def report_link(app, page: str, _template, context: dict, doctree) -> None:
    """Under every page: where to say that something on it is wrong."""
    if doctree is None or "body" not in context:
        return
    repository = app.config.html_theme_options["repository_url"]
    title = quote(f"Problem on {page}")
    context["body"] += (
        f'<p class="report"><a href="{repository}/issues/new?title={title}">'
        "Found a problem on this page? Please report it.</a></p>"
    )


def repair(app, failed: Exception | None) -> None:
    """Apply the repairs to all pages."""
    if failed or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = old = path.read_text(encoding="utf-8")
        for pattern, better in REPAIRS:
            text = re.sub(pattern, better, text, flags=re.S)
        if text != old:
            path.write_text(text, encoding="utf-8")


def setup(app) -> dict:
    """Register with Sphinx."""
    app.add_js_file("from_disk.js")
    app.connect("html-page-context", report_link)
    app.connect("build-finished", repair)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
