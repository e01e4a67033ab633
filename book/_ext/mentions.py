"""Every plain "chapter 9" on a page becomes a link to that chapter.

Authors write the words, and readers of the notebooks see them unchanged. A number that
no chapter has is a warning, and so an error of the strict build.
"""

import re
from pathlib import Path

from docutils import nodes
from sphinx.util import logging

ONE = r"\b[Cc]hapter\s+\d+"
SEVERAL = r"\b[Cc]hapters\s+\d+(?:(?:,|,?\s+(?:and|or|to))\s+\d+\b)*"
MENTION = re.compile(f"{SEVERAL}|{ONE}")
LINK = re.compile(rf"({ONE}|\b[Cc]hapters\s+\d+|\d+)")
QUIET = (nodes.reference, nodes.literal, nodes.literal_block, nodes.title, nodes.raw,
         nodes.math, nodes.math_block, nodes.comment)  # fmt: skip
logger = logging.getLogger(__name__)


def chapters(root: Path) -> dict[int, str]:
    """Number of a chapter -> its page."""
    found = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {int(path.name[:2]): f"notebooks/{path.stem}" for path in found}


def pieces(text: str) -> list[tuple[str, int | None]]:
    """The text in parts; one that shall be a link comes with its chapter's number."""
    parts, end = [], 0
    for mention in MENTION.finditer(text):
        parts.append((text[end : mention.start()], None))
        for part in LINK.split(mention[0]):
            number = re.search(r"\d+$", part)
            parts.append((part, int(number[0]) if number else None))
        end = mention.end()
    parts.append((text[end:], None))
    return [(part, number) for part, number in parts if part]


def link_mentions(app, doctree, docname: str) -> None:
    """Replace the mentions of one page."""
    known = chapters(Path(app.srcdir))
    for text in list(doctree.findall(nodes.Text)):
        if any(isinstance(node, QUIET) for node in _ancestors(text)):
            continue
        new = []
        for part, number in pieces(text.astext()):
            if number is not None and number not in known:
                logger.warning("there is no chapter %d", number, location=text.parent)
            target = known.get(number)
            if target in (None, docname) or _linked_next(text, part):
                new.append(nodes.Text(part))
                continue
            uri = app.builder.get_relative_uri(docname, target)
            link = nodes.reference("", part, internal=True, refuri=uri)
            new.append(link)
        if any(isinstance(node, nodes.reference) for node in new):
            text.parent.replace(text, new)


def _ancestors(node):
    while node.parent is not None:
        node = node.parent
        yield node


def _linked_next(text, part: str) -> bool:
    """Whether the author wrote the link out: "chapter 9 (", then the link."""
    after = text.next_node(siblings=True, descend=False)
    return isinstance(after, nodes.reference) and text.endswith(f"{part} (")


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("doctree-resolved", link_mentions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
