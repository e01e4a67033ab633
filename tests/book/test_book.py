"""What must be true of every chapter and of the files around the library."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHAPTERS = {
    "01_what_is_an_anomaly.ipynb",
    "02_energies_in_one_and_two_dimensions.ipynb",
    "03_langevin_sampling.ipynb",
    "04_contrastive_divergence.ipynb",
    "05_score_matching_and_contrast.ipynb",
    "06_convolutional_energies.ipynb",
    "07_train_an_image_ebm.ipynb",
    "08_detect_with_energy.ipynb",
    "09_localize_with_gradients.ipynb",
    "10_scores_from_the_gradient_map.ipynb",
    "11_measuring_honestly.ipynb",
    "12_mvtec_ad_case_study.ipynb",
    "13_energies_on_pretrained_features.ipynb",
    "14_when_ebms_fail.ipynb",
    "15_ship_it.ipynb",
}
ALLOWED_TAGS = {
    "nbval-ignore-output",
    "hide-cell",
    "hide-input",
    "hide-output",
    "remove-cell",
    "remove-input",
}
MOST_IGNORED = 3  # cells per chapter whose output is not compared, besides the set-up

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def load_tool(name: str):
    """Import a script of tools/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup_cell = load_tool("setup_cell")
REPOSITORY = setup_cell.repository()


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def shows_image(cell) -> bool:
    return any("image/png" in out.get("data", {}) for out in cell.outputs)


def project_files() -> list[Path]:
    """The files git tracks or would track; without git, all outside hidden folders."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(
            listing, cwd=ROOT, capture_output=True, text=True, check=True
        )
        files = [ROOT / name for name in done.stdout.splitlines()]
    except (OSError, subprocess.CalledProcessError):
        skip = re.compile(r"(^|/)(\.venv|\.git|_build|build|vendor|__pycache__)(/|$)")
        files = [
            p
            for p in ROOT.rglob("*")
            if not skip.search(p.relative_to(ROOT).as_posix())
        ]
    return [p for p in files if p.is_file()]


def texts() -> list[tuple[str, str]]:
    """(name, content) of every text file of the project."""
    found = []
    for path in project_files():
        content = path.read_bytes()
        if b"\0" not in content[:8000]:
            name = path.relative_to(ROOT).as_posix()
            found.append((name, content.decode("utf-8", errors="replace")))
    return found


# The chapters


def test_no_chapter_is_lost():
    assert {path.name for path in NOTEBOOKS} >= CHAPTERS


@every_notebook
def test_notebook_is_valid_and_small(path):
    nbformat.validate(read(path))
    assert path.stat().st_size < 1_000_000


@every_notebook
def test_all_code_ran_in_order_and_outputs_are_stored(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@every_notebook
def test_outputs_hold_no_errors_warnings_or_progress(path):
    for cell in code_cells(path):
        for out in cell.outputs:
            assert out.output_type != "error", cell.source
            assert out.get("name") != "stderr", out.get("text")
            assert "image/svg+xml" not in out.get("data", {}), "PNG figures only"
            text = out.get("text", "") + str(out.get("data", {}).get("text/plain", ""))
            assert "\r" not in text, f"progress bar in the output of:\n{cell.source}"


@every_notebook
def test_tags_are_known_and_uncompared_cells_assert(path):
    cells = read(path).cells
    for cell in cells:
        assert tags(cell) <= ALLOWED_TAGS, cell.source
    ignored = [c for c in cells if "nbval-ignore-output" in tags(c)]
    ignored = [c for c in ignored if c.source != setup_cell.setup_cell(path.name)]
    assert len(ignored) <= MOST_IGNORED
    for cell in ignored:
        assert re.search(r"^\s*assert\b", cell.source, re.M), cell.source


@every_notebook
def test_first_code_cell_is_the_set_up_cell(path):
    first = code_cells(path)[0]
    assert first.source == setup_cell.setup_cell(path.name)
    assert first.metadata["tags"] == setup_cell.TAGS


@every_notebook
def test_every_figure_has_alt_text(path):
    for cell in code_cells(path):
        if shows_image(cell):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) > 20, f"no alt text on the figure of:\n{cell.source}"


@every_notebook
def test_code_fits_the_page_and_uses_nothing_that_a_page_cannot_show(path):
    for cell in code_cells(path):
        wide = [line for line in cell.source.splitlines() if len(line) > 79]
        assert not wide
        for word in ("interact(", "tqdm", "clear_output"):
            assert word not in cell.source


@every_notebook
def test_directives_are_colon_fenced(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            assert "```{" not in cell.source, "use ::: so that Colab shows it as text"


@every_notebook
def test_pip_is_only_called_by_the_set_up_cell(path):
    for cell in code_cells(path)[1:]:
        assert not re.search(r"pip\W+install", cell.source)


# The book and the files around it


def pages() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    return [toc["root"], *chapters]


def test_every_page_exists_and_every_chapter_is_a_page():
    for page in pages():
        found = [p for p in (".md", ".ipynb") if (ROOT / (page + p)).exists()]
        assert found, f"{page} is in _toc.yml but not in the repository"
    assert {f"notebooks/{path.stem}" for path in NOTEBOOKS} <= set(pages())


def test_links_between_files_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md", "LICENSE-TEXT.md"):
        links = re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text())
        for link in links:
            assert link.startswith("http") or (ROOT / link).exists(), (name, link)


def test_the_repository_has_one_address():
    name = REPOSITORY.rsplit("/", 1)[1]
    addresses = re.compile(rf"https://github\.com/[\w.-]+/{name}\b")
    found = {(f, a) for f, text in texts() for a in addresses.findall(text)}
    assert {a for _, a in found} == {REPOSITORY}, sorted(found)
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert config["repository"]["url"] == REPOSITORY
    assert citation["repository-code"] == REPOSITORY
    assert f"git+{REPOSITORY}" in setup_cell.SETUP_CELL


def test_the_version_is_the_same_everywhere():
    import ebmlib

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == ebmlib.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"## \[(\d+\.\d+\.\d+)\]", changelog)[0] == ebmlib.__version__


def test_no_file_names_a_folder_of_somebodys_machine():
    private = re.compile(r"/(?:work|root|home|Users)/\w|[A-Z]:\\Users")
    found = [(name, match) for name, text in texts() for match in private.findall(text)]
    assert not found


def test_requirements_are_pinned_and_name_no_index():
    text = (ROOT / "requirements.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", line), line
    assert "http" not in text


def test_requirements_satisfy_the_ranges_of_the_library():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name as canonical

    text = (ROOT / "requirements.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M))
    pins = {canonical(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    for line in project["dependencies"] + [x for extra in extras for x in extra]:
        wish = Requirement(line)
        assert wish.specifier.contains(pins[canonical(wish.name)]), line


def test_references_can_be_found_and_citations_exist():
    text = (ROOT / "book" / "references.bib").read_text()
    entries = re.findall(r"@\w+\{(\w+),(.*?)\n\}", text, re.S)
    keys = [key for key, _ in entries]
    assert len(keys) == len(set(keys))
    for key, body in entries:
        assert re.search(r"^\s*(doi|eprint|url) = ", body, re.M), key
    sources = [p.read_text() for p in (ROOT / "book").glob("*.md")]
    sources += [c.source for path in NOTEBOOKS for c in read(path).cells]
    cited = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", "\n".join(sources))
    assert {key.strip() for group in cited for key in group.split(",")} <= set(keys)


def test_importing_the_library_loads_nothing_heavy():
    code = "import sys, ebmlib; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_results_table_of_the_status_page():
    spec = importlib.util.spec_from_file_location(
        "tables", ROOT / "book" / "_ext" / "tables.py"
    )
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert "no results yet" in tables.results_table([])[0]
    run = {"category": "synthetic/nut", "image_size": 64, "method": "contrast"}
    energy = {"energy": {"image_auroc": 0.5}}
    first = {"image_auroc": 0.5, "image_auroc_interval": [0.4, 0.6]}
    second = {"image_auroc": 0.7, "image_auroc_interval": [0.6, 0.8]}
    runs = [
        run | {"seconds": {"fit": 2}, "metrics": first | {"image_scores": energy}},
        run | {"seconds": {"fit": 4}, "metrics": second | {"image_scores": energy}},
    ]
    rows = tables.results_table(runs)
    expected = "0.600 (0.500–0.700) | 0.400–0.800 | 0.500 | – | –"
    assert f"| contrast | 2 | {expected} | 3 |" in rows


def test_serving_uses_the_loopback_address_and_yields_a_taken_port():
    serve_book = load_tool("serve_book")
    with serve_book.start(0) as first:
        host, port = first.server_address
        assert host == "127.0.0.1"
        with serve_book.start(port) as second:
            assert second.server_address[0] == "127.0.0.1"
            assert second.server_address[1] != port
