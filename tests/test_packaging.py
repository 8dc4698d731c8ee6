"""What is installed: the packages of pyproject.toml, the pinned versions, and a client that needs no engine."""

import importlib
import json
import re
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from installs import installed_by, run_with_only
from setuptools import find_packages

from tilebeam import COMMAND_EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def normal(name: str) -> str:
    """A distribution's name, or a requirement's, as registries compare them (PEP 503)."""
    bare = re.match(r"[A-Za-z0-9._-]+", name)
    assert bare, f"{name!r} names no distribution"
    return re.sub(r"[-_.]+", "-", bare[0]).lower()


def pinned() -> set[str]:
    """The names in constraints.txt."""
    return {normal(line) for line in CONSTRAINTS if not line.startswith("#")}


def packages() -> list[str]:
    """The packages that setuptools will find."""
    return find_packages(str(ROOT), include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])


def test_every_folder_with_modules_is_a_package() -> None:
    top = {name.split(".")[0] for name in packages()}
    folders = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for t in top for p in (ROOT / t).rglob("*.py")}
    assert top == {"tile_cache", "retrieval", "indexer", "service"}
    assert set(packages()) == folders


def test_every_data_file_is_packaged() -> None:
    """A wheel holds what the globs of package-data match; a data file beside the code that none matches is lost."""
    globs = PROJECT["tool"]["setuptools"]["package-data"]
    matched = {
        path
        for package, found in globs.items()
        for glob in found
        for path in (ROOT / package.replace(".", "/")).glob(glob)
    }
    files = {path for name in globs for path in (ROOT / name.split(".")[0]).rglob("*") if path.is_file()}
    data = {path for path in files if path.suffix != ".py" and path.parent.name != "__pycache__"}
    assert sorted(data - matched) == []


def test_the_image_is_given_every_package() -> None:
    """.dockerignore lists what may pass."""
    top = {name.split(".")[0] for name in packages()}
    passing = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    assert top | {f"{name}.py" for name in PROJECT["tool"]["setuptools"]["py-modules"]} <= passing


def test_the_console_script_can_be_called() -> None:
    module, _, name = PROJECT["project"]["scripts"]["tilebeam"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_constraints_are_names_and_versions_only() -> None:
    line = re.compile(r"#.*|[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*")
    assert [text for text in CONSTRAINTS if not line.fullmatch(text)] == []


def test_everything_that_is_required_is_pinned() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    named = {normal(text) for texts in [PROJECT["project"]["dependencies"], *extras.values()] for text in texts}
    assert named - {"tilebeam"} - pinned() == set()


class Service(BaseHTTPRequestHandler):
    """The least service there can be: one answer to whatever is posted."""

    def do_POST(self) -> None:
        """Read the picture, answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"lat": 46.5, "lon": 8.0}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """The address of a running Service."""
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_locating_by_url_needs_the_base_dependencies_alone(url: str, tmp_path: Path) -> None:
    """The whole command against a loopback service, where every other library is made missing."""
    (tmp_path / "photo.jpg").write_bytes(b"the service is the one to judge this")
    code = "import tilebeam; tilebeam.main()"
    done = run_with_only((), code, "locate", "--url", url, "--json", tmp_path / "photo.jpg")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"lat": 46.5, "lon": 8.0}


def test_the_documents_list_every_extra() -> None:
    text = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([a-z-]+)` \|", text[text.index("| extra | for |") :].split("\n\n")[0], re.M))
    assert rows == set(PROJECT["project"]["optional-dependencies"])


def install_blocks() -> Iterator[tuple[str, set[str], set[str]]]:
    """The documented blocks with an install line: the document, its extras, and the commands after it."""
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            if found := re.search(r"pip install [^\n]*'(?:\.|tilebeam)\[([a-z,-]+)\]'", block):
                commands = set(re.findall(r"^tilebeam ([a-z-]+)", block[found.end() :], re.M))
                yield path.name, set(found[1].split(",")), commands


def test_documented_installs_contain_what_their_next_lines_need() -> None:
    blocks = list(install_blocks())
    assert {name for name, _, _ in blocks} >= {"priors.md", "street-photos.md"}
    for name, extras, commands in blocks:
        installed = installed_by(f"tilebeam[{','.join(extras)}]").keys()
        for command in commands & COMMAND_EXTRAS.keys():
            needed = installed_by(f"tilebeam[{COMMAND_EXTRAS[command]}]").keys()
            assert needed <= installed, f"{name}: `tilebeam {command}` after {sorted(extras)}"


def test_the_page_of_an_index_has_no_link_into_the_repository() -> None:
    text = (ROOT / PROJECT["project"]["readme"]).read_text(encoding="utf-8")
    assert [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")] == []
    assert f"!{PROJECT['project']['readme']}" in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    extras = PROJECT["project"]["optional-dependencies"].keys() - {"all", "dev"}
    assert {extra for extra in extras if f"`{extra}`" not in text} == set()
