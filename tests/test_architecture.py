"""The house's plan, kept: who imports whom, where each heavy library lives, and how large a room may grow.

The plan itself is the two tables of docs/architecture.md; imports are read from the code's syntax trees, so that one
inside a function, under TYPE_CHECKING or through `import_module("...")` counts like any other.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tile_cache", "retrieval", "indexer", "service")
SOURCES = sorted([*ROOT.glob("*.py"), *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))])
MOST_LINES = 400
ENGINE = ("torch", "faiss", "numpy", "PIL", "open_clip", "safetensors", "shapely", "mercantile", "fastapi", "uvicorn")


class Import(NamedTuple):
    """One import: the importing file below the root, its line, and the dotted name that it asks for."""

    path: str
    line: int
    target: str


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the document's table whose first column is called `heading`: each name in it to the row's cells."""
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
    """Every import in a file's text; of `from a import b` both `a` and `a.b`, as b may be a module."""
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
    """Whether a dotted name is this package or lies in it."""
    return name == package or name.startswith(f"{package}.")


def package_of(name: str, packages: list[str]) -> str | None:
    """The innermost of `packages` that a dotted name lies in."""
    return max((p for p in packages if within(name, p)), key=len, default=None)


def wrong_arrows(imports: list[Import], allowed: dict[str, list[str]]) -> list[str]:
    """The imports that run against the table, in words."""
    wrong = []
    for path, line, target in imports:
        here = package_of(path.removesuffix(".py").replace("/", "."), list(allowed))
        there = package_of(target, list(allowed))
        if there is not None and here != there and there not in allowed[here or ""]:
            wrong.append(f"{path}:{line}: {here} must not import {target}")
    return wrong


def strays(imports: list[Import], homes: dict[str, list[str]]) -> list[str]:
    """The imports of a library outside its home, in words."""
    return [
        f"{path}:{line}: {target} belongs in {', '.join(places)}"
        for library, places in homes.items()
        for path, line, target in imports
        if within(target, library) and not at_home(path, places)
    ]


def at_home(path: str, places: list[str]) -> bool:
    """Whether a file is one of these places, which are files, or folders with a slash at the end."""
    return any(path == place or (place.endswith("/") and path.startswith(place)) for place in places)


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    """Every import of the house."""
    found = []
    for path in SOURCES:
        found += imports_of(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    return found


def test_every_import_follows_an_arrow_of_the_table(imports: list[Import]) -> None:
    assert wrong_arrows(imports, table("package")) == []


def test_every_heavy_library_stays_in_its_home(imports: list[Import]) -> None:
    assert strays(imports, table("library")) == []


def test_the_tables_name_nothing_that_is_gone(imports: list[Import]) -> None:
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
def test_a_wrong_arrow_is_seen_wherever_it_stands(path: str, text: str) -> None:
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
def test_a_stray_library_is_seen_wherever_it_stands(path: str, text: str) -> None:
    assert strays(list(imports_of(path, text)), table("library"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("indexer/build/fetch.py", "from retrieval.index import manifest\nfrom tile_cache.fetch.client import fetch"),
        ("retrieval/index/shards.py", "import faiss\nfrom . import errors"),
        ("service/app.py", "import torchmetrics"),
    ],
)
def test_what_the_tables_allow_passes(path: str, text: str) -> None:
    found = list(imports_of(path, text))
    assert wrong_arrows(found, table("package")) == strays(found, table("library")) == []


def test_no_module_outgrows_its_room() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    assert [path for path in SOURCES if path.stem in {"utils", "util", "common", "helpers", "misc"}] == []


@pytest.mark.parametrize("module", ["service.client.client", "service.cli", "tilebeam"])
def test_imports_without_the_engine(module: str) -> None:
    """As on a machine where only the base dependencies are installed: each library of the engine is made missing."""
    code = f"import sys; sys.modules.update(dict.fromkeys({ENGINE!r})); import {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
