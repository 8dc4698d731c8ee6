"""What is installed and what the images contain: pinned versions, hashes, licences, and no GPL codec by default."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
from installs import script
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKED = ROOT / "docker/locked"


NOTICE = script("export-notice")


def pinned() -> dict[str, str]:
    """Normalised name to version in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in pins}


def locked(part: str) -> dict[str, str]:
    """Name to version in one lock file."""
    text = (LOCKED / f"{part}.txt").read_text(encoding="utf-8")
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M)}


def test_whatever_make_setup_installs_is_pinned_and_has_that_version() -> None:
    pins, installed = pinned(), NOTICE.closure("tilebeam[dev]", "pip", "setuptools")
    assert {"pip", "setuptools", "tzdata", "torch", "numpy", "pytest"} <= installed.keys()
    versions = {name: found.version.partition("+")[0] for name, found in installed.items()}
    assert {name: (version, pins.get(name)) for name, version in versions.items() if pins.get(name) != version} == {}


def test_the_environment_that_make_setup_made_has_nothing_else() -> None:
    if os.environ.get("CI") != "true":
        pytest.skip("only CI has an environment that nobody has added anything to")
    # setuptools puts the packages that it bundles on the search path once it is imported; they are not installed.
    found = importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
    names = {canonicalize_name(distribution.metadata["Name"]) for distribution in found}
    assert names - pinned().keys() - {"tilebeam"} == set()


def test_builds_use_the_pinned_setuptools() -> None:
    assert PROJECT["build-system"]["requires"] == [f"setuptools=={pinned()['setuptools']}"]


def test_make_setup_pins_pip_before_it_installs() -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    installs = [line for line in lines if "-m pip install" in line]
    assert all("-c constraints.txt" in line for line in installs)
    assert installs[0].endswith("--upgrade pip setuptools")


def test_default_installs_bring_no_gpl_codec() -> None:
    files = {
        f"{name}: {file.name}"
        for name, found in NOTICE.closure("tilebeam[dev]").items()
        for file in found.files or []
        if NOTICE.GPL_CODECS.match(file.name)
    }
    assert files == set()
    extras = PROJECT["project"]["optional-dependencies"]
    asking = {extra for extra, texts in extras.items() for text in texts if Requirement(text).name == "pillow-heif"}
    assert asking == {"heic"}
    assert not [text for extra, texts in extras.items() if extra != "heic" for text in texts if "heic" in text]


def test_the_search_for_codecs_recognises_them() -> None:
    files = ["libx265-4883ecb5.so.217", "libx264.so.164", "libpostproc.57.dylib", "libjpeg-6dc8d115.so.62.4.0"]
    assert [bool(NOTICE.GPL_CODECS.match(name)) for name in files] == [True, True, True, False]


def test_every_locked_version_is_the_pinned_one_and_has_hashes() -> None:
    pins = pinned()
    for path in LOCKED.glob("*.txt"):
        entries = re.split(r"\n(?=\S)", path.read_text(encoding="utf-8").strip())
        for entry in (entry for entry in entries if not entry.startswith("#")):
            name, _, rest = entry.partition("==")
            assert re.match(r"[\w.]+", rest)[0] == pins[canonicalize_name(name)], f"{path.name}: {name}"  # type: ignore[index]
            assert re.search(r"--hash=sha256:[0-9a-f]{64}$", entry, re.M), f"{path.name}: {name}"


def test_lock_files_name_no_host() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in LOCKED.glob("*.txt"))
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", text)


def test_the_locks_hold_what_is_installed() -> None:
    """Resolved from metadata: a dependency that was added to pyproject.toml must be locked as well."""
    images = NOTICE.closure("tilebeam[all]")
    parts = locked("base") | locked("torch") | locked("faiss") | locked("faiss-cpu")
    assert images.keys() - parts.keys() == set(), "run scripts/lock-requirements"
    assert NOTICE.closure("tilebeam").keys() - locked("client").keys() == set(), "run scripts/lock-requirements"
    assert locked("build").keys() == {"pip", "setuptools"}


def test_the_lock_without_cuda_has_no_cuda() -> None:
    cuda = re.compile(r"(nvidia|cuda)-.*|triton|faiss-gpu|torch|torchvision")
    assert not [name for part in ("base", "faiss-cpu", "client") for name in locked(part) if cuda.fullmatch(name)]
    assert " ; " not in (LOCKED / "faiss-cpu.txt").read_text(encoding="utf-8"), "a marker would leave it out on x86-64"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("", ""), ["build.txt", "base.txt torch.txt faiss.txt"]),
        (("", "gpu"), ["build.txt", "base.txt torch.txt faiss.txt"]),
        (("", "cpu"), ["build.txt", "base.txt torch.txt faiss-cpu.txt"]),
        (("file:///cpu", ""), ["build.txt", "TORCH", "base.txt faiss-cpu.txt", "REST"]),
        (("file:///cu126", "gpu"), ["build.txt", "TORCH", "base.txt faiss.txt", "REST"]),
    ],
)
def test_the_image_installs_by_hash(tmp_path: Path, arguments: tuple[str, str], expected: list[str]) -> None:
    """docker/install-locked with a pip that writes down its arguments."""
    pip, log = tmp_path / "pip", tmp_path / "log"
    pip.write_text(f'#!/bin/sh\necho "$*" >> {log}\n')
    pip.chmod(0o755)
    subprocess.run(["sh", ROOT / "docker/install-locked", pip, *arguments], check=True, cwd=LOCKED)
    calls = log.read_text().splitlines()
    named = {
        f"install --no-deps --index-url {arguments[0]} -c constraints.txt torch torchvision": "TORCH",
        "install -c constraints.txt torch torchvision": "REST",
    }
    hashed = "install --require-hashes --only-binary :all: --no-deps "
    assert [named.get(call) or call.removeprefix(hashed).replace("-r ", "") for call in calls] == expected


def test_the_image_refuses_an_unknown_faiss(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", ROOT / "docker/install-locked", "false", "", "cuda"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (2, "FAISS=cuda is unknown; there are cpu and gpu\n")


def test_every_install_in_a_dockerfile_checks_hashes_or_has_no_index() -> None:
    for path in (ROOT / "docker/Dockerfile", ROOT / "examples/Dockerfile"):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        everywhere = "PIP_REQUIRE_HASHES=1" in text
        for command in re.findall(r"pip (?:install|wheel) [^&\n]*", text):
            offline = "--no-index" in command or "--no-build-isolation" in command
            assert "--no-deps" in command or "build.txt" in command, f"{path.name}: {command}"
            assert offline or everywhere, f"{path.name}: {command}"


def test_pin_base_image_writes_the_digest_everywhere(tmp_path: Path) -> None:
    """The script on a copy, with a Docker client that knows one image."""
    digest = "sha256:" + "0123456789abcdef" * 4
    names = ["docker/Dockerfile", "examples/Dockerfile", "docker-compose.yml", "examples/docker-compose.batch.yml"]
    for name in [*names, "scripts/pin-base-image"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    docker = tmp_path / "docker-client" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\n[ "$1" = pull ] || echo "python@{digest}"\n')
    docker.chmod(0o755)
    env = {"PATH": f"{docker.parent}:{os.environ['PATH']}"}
    for tag in ("python:3.13-slim-trixie", "python:3.12-slim-bookworm"):
        subprocess.run(["sh", tmp_path / "scripts/pin-base-image", tag], check=True, env=env, capture_output=True)
        for name in names:
            lines = [
                line for line in (tmp_path / name).read_text().splitlines() if re.search(r"BASE_IMAGE(=|:-)", line)
            ]
            assert lines
            assert all(f"{tag}@{digest}" in line for line in lines), name
    docker.write_text("#!/bin/sh\n")
    done = subprocess.run(["sh", tmp_path / "scripts/pin-base-image"], env=env, capture_output=True, text=True)
    assert (done.returncode, "has no digest" in done.stderr) == (1, True)


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="NOTICE lists what wheels for Linux x86-64 hold"
)
def test_notice_lists_what_is_installed() -> None:
    text = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert NOTICE.missing_lines(text) == [], "run scripts/export-notice"
    pins = pinned()
    listed = dict(re.findall(r"^([\w.-]+) ([\d][\w.]*): \S", text, re.M))
    assert {name: version for name, version in listed.items() if pins.get(canonicalize_name(name)) != version} == {}


def test_notice_says_a_licence_for_everything() -> None:
    text = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert not re.search(r": *$", text.partition("-----")[2], re.M)
    assert "basemap_data 2.0.0: LGPL-3.0-or-later" in text
    assert re.search(r"^nvidia-cublas \S+: LicenseRef-NVIDIA-Proprietary$", text, re.M)
    assert re.search(r"^libgeos in shapely: LGPL", text, re.M)
    assert NOTICE.GPL_CODECS.search(text) is None


def test_wheels_and_images_carry_the_notice() -> None:
    assert PROJECT["project"]["license-files"] == ["LICENSE", "NOTICE"]
    passing = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {"!NOTICE", "!LICENSE", "!docker/locked", "!docker/install-locked"} <= set(passing)
