"""Checks the rules of docs/architecture.md: which package may import which, homes of heavy libraries, sizes, language.

Imports are read from the syntax trees, so one inside a function, under TYPE_CHECKING or through `import_module("...")`
counts like any other.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tile_cache", "retrieval", "indexer", "service")
SOURCES = sorted([*ROOT.glob("*.py"), *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))])
MAX_LINES, MAX_MODULES = 400, 16
"""Lines of a module, and modules of a folder."""
ENGINE = ("torch", "faiss", "numpy", "PIL", "open_clip", "safetensors", "shapely", "mercantile", "fastapi", "uvicorn")


class Import(NamedTuple):
    """One import: the importing file below the root, its line, and the dotted name that it asks for."""

    path: str
    line: int
    target: str


def table(heading: str) -> dict[str, list[str]]:
    """Read the table of docs/architecture.md whose first column is `heading`: each name there to the row's names."""
    lines = iter((ROOT / "docs/architecture.md").read_text(encoding="utf-8").splitlines())
    next(line for line in lines if line.startswith(f"| {heading} |"))
    next(lines)
    rows: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith("|"):
            return rows
        names, values = (re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|"))
        rows |= dict.fromkeys(names, values)
    return rows


def imports_of(path: str, text: str) -> Iterator[Import]:
    """Yield every import in a file's text; for `from a import b` both `a` and `a.b`, because b may be a module."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        else:
            continue
        yield from (Import(path, node.lineno, name) for name in names)


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def within(name: str, package: str) -> bool:
    """Return whether a dotted name is this package or inside it."""
    return name == package or name.startswith(f"{package}.")


def package_of(name: str, packages: list[str]) -> str | None:
    """Return the innermost of `packages` that contains a dotted name."""
    return max((p for p in packages if within(name, p)), key=len, default=None)


def wrong_arrows(imports: list[Import], allowed: dict[str, list[str]]) -> list[str]:
    """Describe the imports that the table does not allow."""
    wrong = []
    for path, line, target in imports:
        here = package_of(path.removesuffix(".py").replace("/", "."), list(allowed))
        there = package_of(target, list(allowed))
        if there is not None and here != there and there not in allowed[here or ""]:
            wrong.append(f"{path}:{line}: {here} must not import {target}")
    return wrong


def strays(imports: list[Import], homes: dict[str, list[str]]) -> list[str]:
    """Describe the imports of a library outside its home."""
    return [
        f"{path}:{line}: {target} belongs in {', '.join(places)}"
        for library, places in homes.items()
        for path, line, target in imports
        if within(target, library) and not at_home(path, places)
    ]


def at_home(path: str, places: list[str]) -> bool:
    """Return whether a file is one of these files, or in one of these folders (with a slash at the end)."""
    return any(path == place or (place.endswith("/") and path.startswith(place)) for place in places)


def module_of(path: str) -> str:
    """Return the dotted name of a file."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def against_the_order(imports: list[Import], order: dict[str, list[str]]) -> list[str]:
    """Describe the imports of a folder from one that stands after it in the row of their package."""
    ranks = {f"{top}.{name}": (top, i) for top, names in order.items() for i, name in enumerate(names)}
    wrong = []
    for path, line, target in imports:
        here, there = package_of(module_of(path), list(ranks)), package_of(target, list(ranks))
        if here and there and here != there and ranks[here][0] == ranks[there][0] and ranks[here] < ranks[there]:
            wrong.append(f"{path}:{line}: {here} must not import {there}")
    return wrong


def circles(imports: list[Import]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    modules = {module_of(path.relative_to(ROOT).as_posix()) for path in SOURCES}
    edges: dict[str, set[str]] = {module: set() for module in modules}
    for path, _, target in imports:
        if target in modules and target != module_of(path):
            edges.setdefault(module_of(path), set()).add(target)
    try:
        tuple(TopologicalSorter(edges).static_order())
    except CycleError as error:
        return [error.args[1]]
    return []


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    """Every import of the product."""
    return [
        one
        for path in SOURCES
        for one in imports_of(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]


def test_folders_import_in_the_order_of_the_table(imports: list[Import]) -> None:
    order = table("inside")
    assert against_the_order(imports, order) == []
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in SOURCES} - {".", *PACKAGES}
    assert {f"{top}.{name}" for top, names in order.items() for name in names} == folders


def test_an_import_against_the_order_is_found() -> None:
    wrong = list(imports_of("retrieval/index/reader.py", "def f():\n    from ..search import beam"))
    assert len(against_the_order(wrong, table("inside"))) == 2  # the folder, and the module in it


def test_no_modules_import_each_other_in_a_circle(imports: list[Import]) -> None:
    assert circles(imports) == []


def test_a_circle_is_found_also_inside_functions(imports: list[Import]) -> None:
    back = imports_of("tile_cache/errors.py", "def f():\n    import tile_cache.mbtiles")
    assert circles([*imports, *back]) != []


def test_every_import_follows_an_arrow_of_the_table(imports: list[Import]) -> None:
    assert wrong_arrows(imports, table("package")) == []


def test_every_heavy_library_stays_in_its_home(imports: list[Import]) -> None:
    assert strays(imports, table("library")) == []


def test_every_home_of_a_library_is_used(imports: list[Import]) -> None:
    assert {package.split(".")[0] for package in table("package")} == {*PACKAGES, "tilebeam"}
    for library, places in table("library").items():
        for place in places:
            assert any(within(i.target, library) and at_home(i.path, [place]) for i in imports), f"{library}: {place}"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("tile_cache/xyz.py", "import indexer.build.coverage"),
        ("tile_cache/xyz.py", "from retrieval.search import beam"),
        ("retrieval/index/reader.py", "def f():\n    from indexer.build.build import build_index"),
        ("retrieval/index/reader.py", "from indexer import build"),
        ("indexer/build/build.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import service.app"),
        ("service/app.py", "from indexer.build import coverage"),
        ("service/app.py", "import importlib\nimportlib.import_module('indexer.build.build')"),
        ("service/cli.py", "import tilebeam"),
    ],
)
def test_a_wrong_arrow_is_found_wherever_it_stands(path: str, text: str) -> None:
    assert wrong_arrows(list(imports_of(path, text)), table("package"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("service/http/routes.py", "def f():\n    import faiss"),
        ("indexer/build/embed.py", "from torch.nn import functional"),
        ("service/http/routes.py", "from tile_cache.fetch import client"),
        ("retrieval/locator.py", "from tile_cache.fetch.client import fetch"),
        ("tile_cache/mbtiles.py", "from sqlite3 import Connection"),
    ],
)
def test_a_stray_library_is_found_wherever_it_stands(path: str, text: str) -> None:
    assert strays(list(imports_of(path, text)), table("library"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("indexer/build/fetch.py", "from retrieval.index import manifest\nfrom tile_cache.fetch.client import fetch"),
        ("retrieval/index/shards.py", "import faiss\nfrom . import errors"),
        ("service/app.py", "import torchmetrics"),
    ],
)
def test_allowed_imports_pass(path: str, text: str) -> None:
    found = list(imports_of(path, text))
    assert wrong_arrows(found, table("package")) == strays(found, table("library")) == []


def test_modules_and_folders_keep_their_size() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in SOURCES if path.stem != "__init__")
    assert {folder: count for folder, count in counts.items() if count > MAX_MODULES} == {}


def test_no_module_has_a_name_without_meaning() -> None:
    assert [path for path in SOURCES if path.stem in {"utils", "util", "common", "helpers", "misc"}] == []


def test_every_package_says_what_it_holds() -> None:
    packages = [path for path in SOURCES if path.name == "__init__.py"]
    assert [path for path in packages if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def test_text_uses_the_words_of_the_glossary() -> None:
    """Phrases that a newcomer cannot look up; docs/method.md names the papers and defines the terms."""
    phrases = re.compile(
        r"paper [HG]\b|design section|\btold\b|who asks|\bunasked\b|\bours\b|\bwhoever\b", re.IGNORECASE
    )
    folders = [ROOT / name for name in (*PACKAGES, "docs", "tests", "benchmarks", "examples", "scripts")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".md", ".js", ".html"}]
    lines = {
        f"{path.relative_to(ROOT)}:{number}": line
        for path in [*files, *ROOT.glob("*.md"), ROOT / "tilebeam.py"]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if phrases.search(line) and path != Path(__file__)
    }
    assert lines == {}


@pytest.mark.parametrize("module", ["service.client.client", "service.cli", "tilebeam"])
def test_imports_without_the_engine(module: str) -> None:
    """Import with each library of the engine blocked, as where only the base dependencies are installed."""
    code = f"import sys; sys.modules.update(dict.fromkeys({ENGINE!r})); import {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
