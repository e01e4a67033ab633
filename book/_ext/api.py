"""The pages of the library: its docstrings, made ready for Sphinx's autodoc.

The docstrings are plain text that reads well in an editor: one backtick around code,
formulas and commands indented. Here they become what Sphinx reads: code with links to
the library's own names, and literal blocks.
"""

import importlib
import inspect
import re
import sys
from pathlib import Path

PAGES = Path(__file__).resolve().parents[1] / "api"
MODULES = {
    module
    for page in PAGES.glob("*.md")
    for module in re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8"))
}
SECTION = re.compile(r"(Args|Arguments|Attributes|Raises|Returns|Yields|Notes?):$")
CODE = re.compile(r"((?::\w+:|`)?`[^`]+``?)")  # `x`, ``x`` or :role:`x`
EMPHASIS = re.compile(r"(?<![\w*])\*(?=\w)([^*\n]+?)(?<=\S)\*(?![\w*])")


def convert(lines: list[str], module: str) -> list[str]:
    """The lines of a docstring of ``module``, as reStructuredText."""
    blocks: list[tuple[bool, list[str]]] = []  # (keep as it is, lines)
    keep, section, blank = False, False, True
    for line in lines:
        starts = None
        if line.startswith(".. "):
            starts, keep = [], True
        elif line in ("Example:", "Examples:"):
            starts, line, keep = [f"{line}:"], "", True
        elif line.startswith("|") and (blank or keep):  # a table drawn in text
            starts, line = None if keep else ["::", ""], f"    {line}"
            keep = True
        elif line.startswith("    ") and blank and not section and not keep:
            starts, keep = ["::", ""], True
        elif line.strip() and not line.startswith("    "):
            keep, section = False, bool(SECTION.match(line))
        if starts is not None or not blocks or blocks[-1][0] != keep:
            blocks.append((keep, starts or []))
        blocks[-1][1].append(line)
        blank = not line.strip()
    done = [text if kept else prose(text, module) for kept, text in blocks]
    return [line for text in done for line in [*text, ""]]


def prose(lines: list[str], module: str) -> list[str]:
    """Mark code, and nothing else, in lines outside literal blocks."""
    pieces = CODE.split("\n".join(lines))  # text, code, text, ...
    pieces[::2] = [escape(text) for text in pieces[::2]]
    pieces[1::2] = [code(words, module) for words in pieces[1::2]]
    return "".join(pieces).split("\n")


def escape(text: str) -> str:
    """Keep ``*emphasis*``; stars, bars and underscores of formulas stay as they are."""
    text = re.sub(r"([|\\]|\w_(?!\w))", lambda m: f"{m[0][:-1]}\\{m[0][-1]}", text)
    pieces = EMPHASIS.split(text)
    pieces[::2] = [plain.replace("*", "\\*") for plain in pieces[::2]]
    pieces[1::2] = [f"*{words}*" for words in pieces[1::2]]
    return "".join(pieces)


def code(words: str, module: str) -> str:
    """Inline code; a link if it is a public name of the library."""
    if not words.startswith("`") or words.startswith("``"):
        return words
    words = " ".join(words.strip("`").split())
    name = public_name(words, module)
    return f":py:obj:`{words} <{name}>`" if name else f"``{words}``"


def public_name(words: str, module: str) -> str | None:
    """The full name of what ``words`` means in a module, if autodoc documents it."""
    if not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", words):
        return None
    owner, _, name = words.rpartition(".")
    if (owner or module).partition(".")[0] not in ("ebmlib", "ebmbook"):
        return None  # other packages have no page here, and need not be installed
    try:
        found = getattr(importlib.import_module(owner or module), name)
    except (ImportError, AttributeError):
        return None
    home = getattr(found, "__module__", "")
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        return None
    package = home.rpartition(".")[0]
    if found.__name__ in getattr(sys.modules.get(package), "__all__", ()):
        home = package  # documented where it is meant to be imported from
    full = f"{home}.{found.__qualname__}"
    return full if home in MODULES and "._" not in full else None


def process(_app, _what, name, _object, _options, lines) -> None:
    """Before napoleon reads the sections of a docstring."""
    while name not in sys.modules:
        name = name.rpartition(".")[0]
    lines[:] = convert(lines, name)


def skip(_app, _what, _name, found, skipped, _options) -> bool | None:
    """Leave out what NamedTuple writes by itself."""
    written = getattr(found, "__doc__", None)
    if not isinstance(written, str):
        return None  # of a built-in type, which is not documented here
    return True if written.startswith("Alias for field number") else None


def setup(app) -> dict:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-skip-member", skip)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
