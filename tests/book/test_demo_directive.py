"""The directive that places a demo, and the files of the demos."""

import json
import shutil
import subprocess
import sys

import pytest
from reader import ROOT, load_script

DEMOS = ROOT / "book" / "_static" / "demos"
demos = load_script("book/_ext/demos.py")
demo_cells = load_script("tools/demo_cells.py")


def build(folder, builder: str):
    """A book of one page with two demos, and one without."""
    source = folder / "source"
    static = source / "book" / "_static"
    static.mkdir(parents=True)
    shutil.copytree(DEMOS, static / "demos")
    (source / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'book' / '_ext')!r})\n"
        "extensions = ['myst_parser', 'demos']\n"
        "myst_enable_extensions = ['colon_fence']\n"
        "html_static_path = ['book/_static']\nexclude_patterns = ['book/_static']\n"
    )
    (source / "one.md").write_text(
        f"# One\n\n{demos.block('sculpt')}\n\n:::{{demo}} threshold\n:::\n"
    )
    (source / "index.md").write_text("# Index\n\n```{toctree}\none\n```\n")
    target = folder / builder
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", builder]
    subprocess.run([*command, source, target], check=True, timeout=300)
    return target


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return build(tmp_path_factory.mktemp("book"), "html")


def test_in_html_the_picture_stands_where_no_script_runs(html):
    page = (html / "one.html").read_text(encoding="utf-8")
    for name in ("sculpt", "threshold"):
        assert page.count(f'<div class="ebm-demo" data-demo="{name}">') == 1
    for name, part in zip(
        ("sculpt", "threshold"), page.split("<noscript>")[1:], strict=True
    ):
        inside = part.split("</noscript>")[0]
        assert f'src="_images/{name}.png"' in inside
        assert demos.DEMOS[name].alt[:40] in inside
    assert "github.com" not in page.split("<noscript>")[1].split("</noscript>")[0]


def test_a_page_loads_the_scripts_of_its_demos_once_and_in_order(html):
    page = (html / "one.html").read_text(encoding="utf-8")
    chosen = demos.DEMOS["sculpt"].scripts + demos.DEMOS["threshold"].scripts
    scripts = [*demos.SHELL, *chosen]
    places = [page.index(f'src="_static/demos/{script}') for script in scripts]
    assert places == sorted(places)
    assert page.count("demos/shell.js") == page.count("demos/shell.css") == 1
    for script in scripts:
        assert (html / "_static" / "demos" / script).exists()
    assert "demos/" not in (html / "index.html").read_text(encoding="utf-8")


def test_in_a_pdf_the_picture_stands_for_the_demo(tmp_path):
    (tex,) = build(tmp_path, "latex").glob("*.tex")
    text = tex.read_text(encoding="utf-8")
    assert text.count("sphinxincludegraphics") >= 2
    assert "Choose a threshold: live in the HTML book" in text


def test_the_places_in_the_chapters_are_up_to_date():
    """Otherwise: python tools/demo_cells.py notebooks/*.ipynb."""
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                assert demo_cells.renewed(text) == text, path.name


@pytest.mark.parametrize("name", demos.DEMOS)
def test_every_demo_has_a_small_picture_and_files_that_exist(name):
    picture = DEMOS / f"{name}.png"
    assert 2_000 < picture.stat().st_size < 60_000
    for file in [*demos.SHELL, *demos.DEMOS[name].scripts, *demos.styles(name)]:
        assert (DEMOS / file).exists()
    assert len(demos.DEMOS[name].alt) > 60


@pytest.mark.parametrize("path", sorted(DEMOS.glob("*.js")), ids=lambda p: p.name)
def test_code_is_short_and_asks_for_nothing_outside(path):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) < 400 and max(map(len, lines)) <= 120
    for word in ("http://", "https://", "import(", "fetch(", "XMLHttpRequest", "eval("):
        assert word not in text


@pytest.mark.parametrize("name", demos.DEMOS)
def test_a_demo_is_less_than_300_lines_and_its_mathematics_has_no_dom(name):
    assert len((DEMOS / f"{name}.js").read_text("utf-8").splitlines()) < 300
    for script in demos.DEMOS[name].scripts:
        if script.endswith("_math.js") or script in ("patch_energy.js", "painting.js"):
            text = (DEMOS / script).read_text("utf-8")
            assert "document" not in text and "window" not in text
