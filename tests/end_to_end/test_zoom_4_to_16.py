"""Zoom 4 to 16 with CLIP's shape: tiles and labels from a server, per-zoom map encoders, an index, a service, a photo.

The programs run in separate processes, like for a user. Their answers are compared with plain loops over embeddings
that open_clip alone computed from the same pictures.
"""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from brute_force import Found, Numbers, expected_loss_km, is_under, middle, search
from PIL import Image
from towers import Towers
from world import HOLE_14, PLACE, ZOOMS, Server, bbox, covered, deep_geojson, imagery, serving

from retrieval.index.calibration import Calibration, ZoomNumbers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # 90 s on two idle cores

ROOT = Path(__file__).parents[2]
FITTED_K, KS = 4, (3, 4, 64)
"""Beam widths that prune at the first level, at later levels, and at none."""
_B = (None, 13.0, 16.0, 19.0, 24.0, 22.0, 25.0)
NUMBERS = {z: Numbers(tau=0.045 - 0.003 * n, gamma=1.1 - 0.1 * n, b=_B[n]) for n, z in enumerate(ZOOMS)}
"""With these numbers some mass stays at every zoom from 8 on, and some goes elsewhere."""


class World(NamedTuple):
    """A folder with the towers in it, and the tile server."""

    folder: Path
    towers: Towers
    server: Server


class Searched(NamedTuple):
    """The served index, the posted photo, its embedding, and every tile's vector."""

    index: Path
    photo: bytes
    embedding: np.ndarray
    vectors: dict[Any, Any]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    # Not pytest's tmp_path, of which it keeps three: this holds over a gigabyte of weights.
    with tempfile.TemporaryDirectory(prefix="tilebeam-end-to-end-") as name, serving() as server:
        yield World(Path(name), Towers(Path(name)), server)


@pytest.fixture(scope="module")
def whole(world: World) -> dict[str, Any]:
    """The report of a build that was not interrupted."""
    process = start_build(world, "whole")
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def searched(world: World, whole: dict[str, Any]) -> Searched:
    """A copy of the index, with calibration numbers that spread the mass."""
    index = world.folder / "served"
    shutil.copytree(world.folder / "whole", index, copy_function=os.link)
    Calibration({z: ZoomNumbers(n.tau, n.gamma, n.b) for z, n in NUMBERS.items()}, k=FITTED_K).write(index)
    out = io.BytesIO()
    imagery(PLACE).resize((300, 300), Image.Resampling.BICUBIC).save(out, "JPEG", quality=92)
    photo = Image.open(io.BytesIO(out.getvalue())).convert("RGB")
    return Searched(index, out.getvalue(), world.towers.photo(photo), world.towers.vectors())


def test_index_holds_the_thinned_box_with_holes(world: World, whole: dict[str, Any]) -> None:
    expected = {str(z): sum(t[0] == z for t in covered()) for z in ZOOMS}
    assert whole["rows"] == expected
    assert whole["vectors"] == expected | {"16": expected["16"] - 1}
    assert whole["inferred"] == {str(z): int(z == HOLE_14[0]) for z in ZOOMS}
    assert whole["problems"]["broken"] == 0
    assert whole["encoded"] == len(covered()) - 3, "two holes, and two tiles that are equal"


def test_resumed_build_gives_the_same_index(world: World, whole: dict[str, Any]) -> None:
    work = world.folder / "killed.partial"
    before = world.server.answered
    kill_when(world, lambda: world.server.answered >= before + 60, delay_s=0.02)
    assert not (work / "fetched.json").exists() or "1" not in json.loads((work / "fetched.json").read_text())
    kill_when(world, lambda: any(work.glob("units/z10/*/*.unit")))
    assert not any(work.glob("units/z16/*/*.unit"))
    kill_when(world, (work / "index").exists)
    asked = len(world.server.asked)
    process = start_build(world, "killed")
    out, err = process.communicate()
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["index_id"] == whole["index_id"]
    assert report["already"] or report["kept"] == len(covered())
    assert len(world.server.asked) == asked, "all that was fetched before was kept"
    assert hashes(world.folder / "killed") == hashes(world.folder / "whole")
    assert not work.exists()


def test_service_answers_equal_brute_force(searched: Searched) -> None:
    with served(searched.index) as client:
        for k in KS:
            answer = locate(client, searched.photo, k)
            expected = search(searched.embedding, searched.vectors, NUMBERS, ZOOMS, k, "posterior")
            assert_discriminating(expected, k)
            assert_same_search(answer, expected)
            assert_least_loss(answer, expected)
            assert answer["calibrated"] == (k == FITTED_K)


def test_paper_scoring_returns_centre_of_best_deepest_tile(searched: Searched) -> None:
    with served(searched.index, "--scoring", "paper") as client:
        for k in KS:
            answer = locate(client, searched.photo, k)
            expected = search(searched.embedding, searched.vectors, NUMBERS, ZOOMS, k, "paper")
            assert_discriminating(expected, k)
            assert_same_search(answer, expected)
            best = expected.kept[16][0]
            assert tile_of(answer["levels"][-1]) == best
            assert (answer["lon"], answer["lat"]) == pytest.approx(middle(best), abs=1e-6)
            assert not answer["calibrated"]


def assert_discriminating(expected: Found, k: int) -> None:
    """Check that the comparison can notice a wrong tile: scores differ by more than rounding."""
    assert (len(expected.margins) >= 2) == (k < 64)
    assert all(margin > 1e-3 for margin in expected.margins.values()), expected.margins
    assert 0.05 < expected.elsewhere < 0.95
    assert max(expected.frontier.values()) < 0.9
    assert max(expected.similarity.values()) - min(expected.similarity.values()) > 0.1


def assert_same_search(answer: dict[str, Any], expected: Found) -> None:
    assert answer["elsewhere"] == pytest.approx(expected.elsewhere, rel=5e-3, abs=1e-4)
    for level in answer["trace"]:
        kept = {tile_of(t): t for t in level["kept"]}
        assert set(kept) == set(expected.kept[level["zoom"]])
        for tile, candidate in kept.items():
            assert candidate["similarity"] == pytest.approx(expected.similarity[tile], abs=2e-4)
            assert candidate["confidence"] == pytest.approx(expected.confidence(tile), rel=5e-3, abs=1e-4)
    assert [level["zoom"] for level in answer["trace"]] == list(ZOOMS)
    path = [tile_of(level) for level in answer["levels"]]
    assert all(is_under(below, above) for above, below in pairwise(path))
    assert path[-1] in expected.frontier
    for tile, level in zip(path, answer["levels"], strict=True):
        assert level["confidence"] == pytest.approx(expected.confidence(tile), rel=5e-3, abs=1e-4)
        w, s, e, n = level["bounds"]
        assert w <= answer["lon"] <= e
        assert s <= answer["lat"] <= n


def assert_least_loss(answer: dict[str, Any], expected: Found) -> None:
    """No centre of a frontier tile has a lower loss than the answer, computed more finely than in the program."""
    loss = expected_loss_km(answer["lon"], answer["lat"], expected.frontier)
    others = [expected_loss_km(*middle(t), expected.frontier) for t, m in expected.frontier.items() if m > 1e-3]
    assert loss <= min(others) * 1.02 + 1


def tile_of(level: dict[str, Any]) -> tuple[int, int, int]:
    tile = level["tile"]
    return tile["z"], tile["x"], tile["y"]


def locate(client: httpx.Client, photo: bytes, k: int) -> dict[str, Any]:
    response = client.post("/locate", params={"k": k, "trace": True}, files={"image": ("photo.jpg", photo)})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["index"]["zooms"] == list(ZOOMS)
    return answer


def start_build(world: World, name: str) -> "subprocess.Popen[str]":
    """Run `tilebeam index` into the folder `name`, with its own tile cache."""
    arguments = [
        *("--source", world.server.template("base"), "--overlay", world.server.template("labels")),
        *(
            "--out",
            world.folder / name,
            "--cache",
            world.folder / f"{name}-tiles",
            "--zooms",
            ",".join(map(str, ZOOMS)),
        ),
        *("--bbox", *bbox(), "--deep-geojson", deep_geojson(world.folder / "deep.geojson")),
        *("--photo-encoder", world.towers.spec, "--map-encoders", world.towers.maps, "--device", "cpu"),
        *("--rate", 2000, "--json"),
    ]
    return start("index", *map(str, arguments), stdout=subprocess.PIPE)


def kill_when(world: World, reached: Callable[[], bool], delay_s: float = 0.0) -> None:
    """Resume the build `killed`, and kill it with SIGKILL once it has come that far."""
    world.server.delay_s = delay_s
    process = start_build(world, "killed")
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.003)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    world.server.delay_s = 0.0


def hashes(directory: Path) -> dict[str, str]:
    files = (p for p in directory.rglob("*") if p.is_file())
    return {p.relative_to(directory).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@contextmanager
def served(index: Path, *options: str) -> Iterator[httpx.Client]:
    """Run `tilebeam serve` on a free port during the block; yields a client."""
    process = start("serve", "--index", str(index), "--port", "0", "--device", "cpu", *options)
    assert process.stderr is not None
    try:
        said = ""
        while (found := re.search(r"http://127\.0\.0\.1:\d+", said)) is None:
            line = process.stderr.readline()
            assert line, f"the service ended: {said}"
            said += line
        with httpx.Client(base_url=found[0], timeout=300, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.communicate()


def start(*arguments: str, stdout: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    """Run `tilebeam ...` in another process, offline."""
    return subprocess.Popen(
        [sys.executable, "tilebeam.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
