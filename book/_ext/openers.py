"""The first screen of a chapter: what it is about, what it takes, and its result.

A notebook must import and compute before it can show; a page need not. On the page,
what stands above a chapter's first heading comes in another order:

    part and number, title, promise,
    one line: time, the chapters it needs, where to run it,
    the first picture, "In this chapter",
    the text, and all code up to here, folded in one place.

The notebook itself is left as it is.
"""

import re
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.util import logging

CHAPTER = re.compile(r"notebooks/(\d\d)_")
FOLDED = "Show the set-up and the code of the first picture"
UNFOLDED = "Hide the set-up and the code of the first picture"
logger = logging.getLogger(__name__)
SETUP = "# Set-up: the same cell in every chapter"


def parts(root: Path) -> dict[str, str]:
    """Page of a chapter -> name of its part of the book."""
    listed = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    return {
        chapter["file"]: part["caption"]
        for part in listed
        for chapter in part["chapters"]
        if CHAPTER.match(chapter["file"])
    }


def is_part(node: nodes.Node, name: str) -> bool:
    """Whether a node is this part of a cell: cell_code, cell_code_source, ..."""
    return isinstance(node, nodes.container) and node.get("nb_element") == name


def shows(node: nodes.Element) -> bool:
    """Whether there is something to look at."""
    return any(True for _ in node.findall(nodes.image))


def taken_apart(cell: nodes.container) -> tuple[list[nodes.Node], list[nodes.Node]]:
    """What may be folded, code and printed words, and what is there to look at."""
    code = [part for part in cell.children if not shows(part)]
    if cell.astext().startswith(SETUP):
        code = code[:1]  # versions and hardware stand on the page of results
    outputs = [part for part in cell.children if shows(part)]
    if not outputs:
        return code, []
    kept = nodes.container("", *outputs, nb_element="cell_code", classes=["cell"])
    return code, [kept]


def time_of(box: nodes.Element) -> str:
    """Take the paragraph "Time ..." out of "In this chapter"; its words."""
    for paragraph in list(box.findall(nodes.paragraph)):
        if paragraph.astext().startswith("Time "):
            paragraph.parent.remove(paragraph)
            first, _, _ = paragraph.astext().removeprefix("Time ").partition(". ")
            return first.rstrip(".")
    message = 'a chapter says in "In this chapter" how long it takes: **Time** ...'
    logger.warning(message, location=box)
    return ""


def needed(box: nodes.Element) -> list[pending_xref]:
    """Links to the chapters that "You need" names, with their numbers as words."""
    found = {}
    for paragraph in box.findall(nodes.paragraph):
        if not paragraph.astext().startswith("You need "):
            continue
        for link in paragraph.findall(pending_xref):
            number = re.match(r"(?:.*/)?(\d\d)_", link.get("reftarget", ""))
            if number and int(number[1]) not in found:
                link = link.copy()
                words = str(int(number[1]))
                link.children = [nodes.inline(words, words)]
                link["refexplicit"] = True
                found[int(number[1])] = link
    return [found[number] for number in sorted(found)]


def facts(page: str, box: nodes.Element) -> nodes.paragraph:
    """The line under the promise: time, chapters that it needs, where to run it."""
    line = nodes.paragraph(classes=["chapter-facts"])
    line += nodes.Text(f"{time_of(box)}, no GPU")
    for index, link in enumerate(needed(box)):
        line += nodes.Text(", " if index else " · needs ")
        line += link
    source = f"../_sources/{page}.ipynb"
    line += nodes.Text(" · ")
    line += nodes.reference("", "notebook", refuri=source, internal=True)
    line += nodes.Text(" · ")
    run = pending_xref(
        "",
        nodes.inline("", "run it"),
        refdomain="std",
        reftype="ref",
        reftarget="run-a-chapter",
        refexplicit=True,
        refdoc=page,
        refwarn=True,
    )
    line += run
    return line


def open_chapter(app, doctree: nodes.document) -> None:
    """Put what is above the first heading in the order of a page."""
    page = app.env.docname
    if not CHAPTER.match(page):
        return
    chapter = next(doctree.findall(nodes.section))
    end = chapter.first_child_matching_class(nodes.section)
    title, promise, *opening = chapter.children[:end]
    below = chapter.children[end:]
    code, pictures, text, box = [], [], [], None
    for node in opening:
        if is_part(node, "cell_code"):
            sources, outputs = taken_apart(node)
            code += sources
            (text if pictures else pictures).extend(outputs)
        elif isinstance(node, nodes.admonition) and box is None:
            box = node
        else:
            text.append(node)
    if box is None or not pictures:
        return
    folded = nodes.container("", *code, nb_element="cell_code", classes=["cell"])
    folded["hide_mode"] = "all"
    folded["prompt_show"], folded["prompt_hide"] = FOLDED, UNFOLDED
    line = facts(page, box)
    chapter.clear()
    chapter += [title, promise, line, *pictures, box, *text, folded, *below]


def name_chapter(app, page: str, _template, context: dict, _doctree) -> None:
    """Above the title: the number of the chapter and its part of the book."""
    match = CHAPTER.match(page)
    if not match or "body" not in context:
        return
    part = parts(Path(app.srcdir)).get(page, "")
    words = f"Chapter {int(match[1])} · {part}"
    body = re.sub(r'(<h1>)<span class="section-number">.*?</span>', r"\1",
                  context["body"], count=1)  # fmt: skip
    context["body"] = body.replace("<h1>", f'<p class="eyebrow">{words}</p>\n<h1>', 1)


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("doctree-read", open_chapter)
    app.connect("html-page-context", name_chapter)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
