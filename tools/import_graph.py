"""Draw which module imports which, and say what is against the rules.

    python tools/import_graph.py            # the graph, layer by layer, and its numbers
    python tools/import_graph.py --summary  # the numbers alone

The rules, which tests/library/test_import_graph.py holds: no circle; imports go down,
or stay in a layer of `LAYERS`; a private name stays in its module, a private module in
its package; `ebmlib` does not import `ebmbook`; at the top of a module stand only the
standard library, declared dependencies and modules of the two packages.
"""

import argparse
import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ebmlib", "ebmbook")

# The map of the library, from the bottom up. A package stands for its modules.
LAYERS: dict[int, tuple[str, ...]] = {
    1: (
        *(
            "energy",
            "estimator",
            "toy",
            "networks",
            "features",
            "backbone",
            "efficientnet",
            "weights",
            "pretrained",
        ),
        *("random", "devices", "torchvision_import", "checkpoint", "results_files"),
        *("arguments", "progress", "global_random", "smoothing"),
        *("metrics", "plotting", "data"),
        *("survey", "regions", "overlay"),
    ),
    2: (
        *("langevin", "replay", "losses", "objectives"),
        *("scoring", "fields", "parzen", "residual", "products", "baselines"),
    ),
    3: ("training", "guard", "runlog", "state", "fingerprint", "calibration", "drift"),
    4: ("plan", "feature_recipes", "recipes", "view"),
    5: ("detector", "pipeline", "prediction", "export"),
    6: (
        *("benchmark", "sweep", "findings", "prediction_table", "judge"),
        *("monitoring", "report", "commands", "__main__"),
    ),
}
BOOK = 7  # everything in ebmbook
IMPORT_NAMES = {"pillow": "PIL", "scikit-learn": "sklearn"}  # where they differ


class Import(NamedTuple):
    """One import statement of a module, resolved to modules of the two packages."""

    source: str  # the module that imports, such as "ebmlib.detector"
    target: str  # the module that is imported, or the first part of another package
    names: tuple[str, ...]  # what is taken from it
    line: int
    top: bool  # whether it runs when the module is imported


# ------------------------------------------------------------------------ reading


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Dotted name of every module of both packages -> its file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> list[Import]:
    """All imports of one module but those for a type checker alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = []
    for node, top in _statements(tree, True):
        if isinstance(node, ast.Import):
            found += [
                Import(name, _owner(alias.name, known), (), node.lineno, top)
                for alias in node.names
            ]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                target, names = (whole, ()) if whole in known else (base, (alias.name,))
                target = _owner(target, known)
                found.append(Import(name, target, names, node.lineno, top))
    return found


def _owner(target: str, known: set[str]) -> str:
    """The module itself if it is ours, else the name of the other package."""
    return target if target in known else target.split(".")[0]


def _statements(tree: ast.AST, top: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield child, top
        yield from _statements(child, top and not inside)


class Graph(NamedTuple):
    """All imports of both packages."""

    modules: dict[str, Path]
    imports: list[Import]

    @property
    def edges(self) -> dict[str, set[str]]:
        """Module -> the modules of the two packages that it imports."""
        found: dict[str, set[str]] = {name: set() for name in self.modules}
        for one in self.imports:
            if one.target in self.modules and one.target != one.source:
                found[one.source].add(one.target)
        return found


def graph(root: Path = ROOT) -> Graph:
    """Read both packages."""
    known = modules(root)
    names = set(known)
    found = [i for name, path in known.items() for i in imports(name, path, names)]
    return Graph(known, found)


# ------------------------------------------------------------------------ the rules


def layer(name: str) -> int | None:
    """The layer of a module; None where the table does not name it."""
    package, *rest = name.split(".")
    if package == "ebmbook":
        return BOOK
    if not rest:
        return 0  # the package itself, which may import nothing at its top
    for number, names in LAYERS.items():
        if rest[0] in names:
            return number
    return None


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another in a circle (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return sorted(found)


def upward(edges: dict[str, set[str]]) -> list[str]:
    """Imports from a lower layer into a higher one, in words."""
    found = []
    for source, targets in sorted(edges.items()):
        for target in sorted(targets):
            low, high = layer(source), layer(target)
            if low and high and low < high:
                found.append(f"{source} ({low}) imports {target} ({high})")
    return found


def unplaced(names: dict[str, Path]) -> list[str]:
    """Modules that the table of layers does not name."""
    return [name for name in names if layer(name) is None]


def private(found: Graph) -> list[str]:
    """Private names and modules that cross a border, in words."""
    known, words = set(found.modules), []
    for one in found.imports:
        if one.target not in known or one.target == one.source:
            continue
        words += [
            f"{one.source} takes {name} from {one.target}"
            for name in one.names
            if name.startswith("_") and not name.endswith("__")
        ]
        package, _, module = one.target.rpartition(".")
        if module.startswith("_") and not f"{one.source}.".startswith(f"{package}."):
            words.append(f"{one.source} imports the private module {one.target}")
    for name, path in found.modules.items():
        words += [
            f"{name} takes {taken}" for taken in _private_attributes(name, path, known)
        ]
    return sorted(set(words))


def _private_attributes(name: str, path: Path, known: set[str]) -> Iterator[str]:
    """Such as "metrics._numpy" where `metrics` is an imported module of ours."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in known:
                    aliases[alias.asname or alias.name] = whole
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            whole, attribute = aliases.get(node.value.id), node.attr
            hidden = attribute.startswith("_") and not attribute.endswith("__")
            if whole and hidden and whole != name:
                yield f"{attribute} from {whole}"


def into_the_book(edges: dict[str, set[str]]) -> list[str]:
    """Modules of the library that import the book."""
    return [
        f"{source} imports {target}"
        for source, targets in sorted(edges.items())
        for target in sorted(targets)
        if source.split(".")[0] == "ebmlib" and target.split(".")[0] == "ebmbook"
    ]


def dependencies(root: Path = ROOT) -> set[str]:
    """Import names of what pyproject.toml declares for the library."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    names = [
        re.match(r"[\w.-]+", line)[0] for line in project["project"]["dependencies"]
    ]
    return {IMPORT_NAMES.get(name.lower(), name.lower()) for name in names}


def undeclared(found: Graph, declared: set[str]) -> list[str]:
    """Imports at the top of a module that a plain installation does not have."""
    allowed = declared | set(sys.stdlib_module_names) | set(PACKAGES)
    posix = {"resource", "fcntl", "pwd", "grp", "termios"}  # not on Windows
    return sorted(
        f"{one.source}, line {one.line}: {one.target}"
        for one in found.imports
        if one.top and (one.target.split(".")[0] not in allowed or one.target in posix)
    )


# ------------------------------------------------------------------------ the picture


def numbers(found: Graph) -> dict[str, int]:
    """What changed from before to after can be told by these."""
    edges = found.edges
    return {
        "modules": len(found.modules),
        "imports between them": sum(map(len, edges.values())),
        "circles": len(circles(edges)),
        "modules in circles": sum(map(len, circles(edges))),
        "imports upward": len(upward(edges)),
        "private names across modules": len(private(found)),
        "modules without a layer": len(unplaced(found.modules)),
        "lines": sum(
            len(path.read_text(encoding="utf-8").splitlines())
            for path in found.modules.values()
        ),
    }


def drawn(found: Graph) -> list[str]:
    """The graph as text: layers from the top down, every module with its imports."""
    lines: list[str] = []
    edges = found.edges
    for number in (BOOK, *sorted(LAYERS, reverse=True)):
        here = [name for name in edges if layer(name) == number]
        if here:
            lines += ["", "ebmbook" if number == BOOK else f"layer {number}"]
        for name in here:
            targets = ", ".join(t.removeprefix("ebmlib.") for t in sorted(edges[name]))
            lines.append(f"  {name.removeprefix('ebmlib.'):<28} {targets}")
    return lines


def main() -> int:
    """Print the graph; 1 if it is against the rules."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--summary", action="store_true", help="print numbers alone")
    parser.add_argument("--root", type=Path, default=ROOT, help="of another checkout")
    options = parser.parse_args()
    found = graph(options.root)
    edges = found.edges
    if not options.summary:
        print(*drawn(found), sep="\n")
    print("", *(f"{n:>6} {name}" for name, n in numbers(found).items()), sep="\n")
    wrong = [f"circle: {' <-> '.join(group)}" for group in circles(edges)]
    wrong += upward(edges) + private(found) + into_the_book(edges)
    wrong += [f"no layer: {name}" for name in unplaced(found.modules)]
    wrong += [f"at the top, {what}" for what in undeclared(found, dependencies())]
    print("", *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
