"""Files of an index or a prior that came from somewhere else: opening them works or raises one of our errors."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.errors import CalibrationError, IndexDamagedError, PriorError, RetrievalError
from retrieval.files import is_inside, open_regular, parse_json, read_npy, read_whole, write_npy
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.file_entries import file_entry
from retrieval.index.reader import TileIndex
from retrieval.installed_priors import staged
from retrieval.locator import Locator
from retrieval.priors.density import DensityPrior
from retrieval.priors.registry import open_prior
from retrieval.testing.fake import FakePhotoEncoder, fake_pyramid, write_fake_index

ENDLESS: dict[str, Callable[[Path], None]] = {
    "fifo": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link in a circle": lambda path: path.symlink_to(path.name),
    "link out of the directory": lambda path: path.symlink_to("/etc/hostname"),
    "directory": lambda path: path.mkdir(),
}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    directory = tmp_path / "index"
    write_fake_index(directory, fake_pyramid(5, [2, 4], 8, tiles=60, holes=0.2))
    Calibration({2: ZoomNumbers(), 4: ZoomNumbers()}, k=64).write(directory)
    return directory


def open_index(directory: Path) -> Locator:
    return Locator.open(directory, encoder=FakePhotoEncoder(8))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("name", ["manifest.json", "calibration.json", "z04-0000.faiss", "z04-0000.tiles.npy"])
def test_only_regular_files_inside_the_index_are_opened(index: Path, name: str, kind: str) -> None:
    (index / name).unlink()
    ENDLESS[kind](index / name)
    with pytest.raises(RetrievalError, match=r"index"):
        open_index(index)


def test_a_link_inside_the_index_and_a_link_to_the_index_are_followed(index: Path, tmp_path: Path) -> None:
    (index / "calibration.json").rename(index / "numbers.json")
    (index / "calibration.json").symlink_to("numbers.json")
    (tmp_path / "live").symlink_to(index)
    assert open_index(tmp_path / "live").calibration.k == 64


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ENDLESS)
def test_a_prior_with_anything_but_regular_files_is_neither_opened_nor_copied(
    index: Path, tmp_path: Path, kind: str
) -> None:
    DensityPrior.write(tmp_path / "prior", np.array([10.0]), np.array([20.0]))
    (tmp_path / "prior" / "places.npy").unlink()
    ENDLESS[kind](tmp_path / "prior" / "places.npy")
    with pytest.raises(PriorError, match=r"places\.npy"):
        open_prior(tmp_path / "prior")
    if kind != "directory":
        with pytest.raises(PriorError, match="prior"), staged(index, "density", tmp_path / "prior"):
            pass


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"priors": []}, "priors is"),
        ({"priors": {"../../etc": {"kind": "density", "fingerprint": "x"}}}, "names a prior"),
        ({"dim": 10**9}, "dim is 1000000000"),
        ({"dim": True}, "dim is True"),
        ({"codec": "fp8"}, "codec is 'fp8'"),
        ({"source": {"identity": 5}}, "identity"),
        ({"coverage": "world"}, "coverage is"),
    ],
)
def test_a_manifest_with_values_out_of_range_is_damaged(index: Path, changes: dict[str, Any], words: str) -> None:
    edited(index / "manifest.json", **changes)
    with pytest.raises(IndexDamagedError, match=words):
        open_index(index)


@pytest.mark.parametrize("zoom", [25, 60, 10**9, -1, 3.5, "4"])
def test_a_zoom_that_no_map_has_is_damaged(index: Path, zoom: Any) -> None:
    manifest = json.loads((index / "manifest.json").read_text())
    manifest["zooms"][1]["zoom"] = zoom
    (index / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IndexDamagedError, match="zoom"):
        open_index(index)


@pytest.mark.parametrize("text", ["[" * 10_000 + "]" * 10_000, '{"dim": 1e999}', '{"a": "\\ud800"}', '{"a": NaN}', ""])
def test_json_that_is_deep_infinite_or_half_a_character_is_damaged(index: Path, text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # many kinds of it
        parse_json(text.encode())
    for name, error in (("calibration.json", CalibrationError), ("manifest.json", IndexDamagedError)):
        (index / name).write_text(text)
        with pytest.raises(error, match=name):
            open_index(index)


@pytest.mark.parametrize("value", [1e300, 1e-300])
def test_a_calibration_beyond_all_measure_is_refused(index: Path, value: float) -> None:
    with pytest.raises(CalibrationError):
        ZoomNumbers(tau=value)


def test_nesting_is_counted_outside_of_texts_only() -> None:
    assert parse_json(json.dumps({"a": "[" * 500, "b": '\\"[{' * 500, "c": [[[1.5]]]}).encode())["c"] == [[[1.5]]]


def test_a_file_over_its_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="11 bytes, at most 10"):
        read_whole(tmp_path / "big", 10)
    assert read_whole(tmp_path / "big", 11) == b"x" * 11


def test_an_array_file_must_have_exactly_the_size_of_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_npy(path, np.arange(10, dtype=np.uint64))
    for change in (lambda b: b[:-1], lambda b: b + b"x", lambda b: b.replace(b"(10,)", b"(99,)"), lambda b: b[:9]):
        damaged = tmp_path / "damaged.npy"
        damaged.write_bytes(change(path.read_bytes()))
        for mapped in (True, False):
            with pytest.raises(ValueError):  # noqa: PT011
                read_npy(damaged, np.dtype("<u8"), mapped=mapped)


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/./b", "a\\b", "a\0b", "a\nb", "", "\ud800", "x" * 2000])
def test_names_that_leave_their_directory_are_seen(name: str) -> None:
    assert not is_inside(name)
    assert is_inside("priors/density/places of mine.npy")


def test_a_small_index_is_in_memory_and_survives_truncation(index: Path) -> None:
    """A mapped file that is cut off ends the process at the next access; what lies in memory answers as before."""
    opened, mapped = TileIndex.open(index), TileIndex.open(index, memory_bytes=0)
    query = np.eye(8, dtype=np.float32)[0]
    parents = np.arange(len(opened.levels[0].codes))
    before = [level.search(query, parents[: len(level.starts) - 1]) for level in opened.levels]
    for level, expected in zip(mapped.levels, before, strict=True):
        for a, b in zip(level.search(query, parents[: len(level.starts) - 1]), expected, strict=True):
            assert np.array_equal(a, b)
    del mapped
    for path in index.glob("z*"):
        os.truncate(path, 0)
    for level, expected in zip(opened.levels, before, strict=True):
        assert np.array_equal(level.search(query, parents[: len(level.starts) - 1]).similarities, expected.similarities)


FUZZ = """
import resource, sys
from pathlib import Path
from retrieval.errors import RetrievalError
from retrieval.index.reader import TileIndex
from retrieval.locator import Locator
from retrieval.testing.fake import FakePhotoEncoder

photo = FakePhotoEncoder(8)
Locator.open(Path(sys.argv[1]) / "whole", encoder=photo)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 700_000_000,) * 2)
outcomes = {"opened": 0, "refused": 0}
for directory in sorted(Path(sys.argv[1]).glob("m*")):
    for memory_bytes in (0, 10**9):
        try:
            Locator.open(directory, encoder=photo, memory_bytes=memory_bytes)
            outcomes["opened"] += 1
        except RetrievalError as exc:
            assert str(exc), directory
            outcomes["refused"] += 1
print(outcomes["opened"], outcomes["refused"])
"""


def mutated(rng: random.Random, data: bytes, text: bool) -> bytes:
    """Another file: a value replaced in JSON, else eight bytes replaced, most often in the head."""
    if text:
        values = [
            b"1e999",
            b"-1",
            b"1e308",
            b"[]",
            b"{}",
            b'"x"',
            b"null",
            b"18446744073709551616",
            b"[[[[[[[[[[",
            b"0.5",
        ]
        starts = [i for i, c in enumerate(data) if c in b":,"]
        at = rng.choice(starts) + 1
        ends = [i for i in range(at, len(data)) if data[i] in b",}]"]
        return data[:at] + rng.choice(values) + data[ends[0] :]
    at = rng.randrange(min(len(data), 256) if rng.random() < 0.8 else len(data))
    number = rng.choice([0, 1, 2**31, 2**40, 2**63 - 1, 2**64 - 1, rng.randrange(2**64)])
    return (data[:at] + number.to_bytes(8, "little") + data[at + 8 :])[: len(data)]


@pytest.mark.timeout(300)
def test_mutated_files_open_or_raise_our_errors_within_bounded_memory(index: Path, tmp_path: Path) -> None:
    rng, folder = random.Random(11), tmp_path / "fuzz"
    shutil.copytree(index, folder / "whole")
    names = ["manifest.json", "calibration.json", "z04-0000.faiss", "z04-0000.tiles.npy", "z04-0000.holes.npy"]
    for number in range(200):
        directory = folder / f"m{number:03d}"
        shutil.copytree(index, directory)
        path = directory / names[number % len(names)]
        path.write_bytes(mutated(rng, path.read_bytes(), path.suffix == ".json"))
        if path.suffix != ".json":  # as an attacker would: the manifest agrees with the file
            entry = file_entry(directory, path.name)
            manifest = json.loads((directory / "manifest.json").read_text())
            manifest["files"][path.name] = {"bytes": entry.bytes, "sha256": entry.sha256}
            (directory / "manifest.json").write_text(json.dumps(manifest))
    done = subprocess.run([sys.executable, "-c", FUZZ, str(folder)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    opened, refused = map(int, done.stdout.split())
    assert opened + refused == 400
    assert refused > 100


def test_opening_does_not_leak_file_handles(index: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (index / "calibration.json").unlink()
    (index / "calibration.json").mkdir()
    for _ in range(5):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(index / "calibration.json")
    assert len(os.listdir("/proc/self/fd")) <= before
