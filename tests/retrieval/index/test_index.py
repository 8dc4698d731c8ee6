"""The index directory: files that plain FAISS reads, shards, determinism, and many kinds of damage."""

import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from retrieval.errors import IndexDamagedError, IndexFormatError, IndexMissingError, IndexVersionError
from retrieval.index.manifest import SMALL_FILE_BYTES, Manifest, ShardEntry
from retrieval.index.reader import TileIndex
from retrieval.index.shards import ShardLists
from retrieval.index.writer import write_shard
from retrieval.testing.fake import fake_pyramid, write_fake_index
from retrieval.verify import verify


def test_plain_faiss_reads_lists_of_children(small):
    directory, levels, _ = small
    for i, level in enumerate(levels):
        index = faiss.read_index(str(directory / f"z{level.zoom:02d}-0000.faiss"))
        codes = np.load(directory / f"z{level.zoom:02d}-0000.tiles.npy")
        parents = [0] if i == 0 else levels[i - 1].codes.tolist()
        shift = 2 * (level.zoom - levels[i - 1].zoom) if i else 2 * level.zoom
        assert index.nlist == len(parents)
        for number, parent in enumerate(parents):
            size = index.invlists.list_size(number)
            ids = faiss.rev_swig_ptr(index.invlists.get_ids(number), size).tolist() if size else []
            children = np.flatnonzero(codes >> np.uint64(shift) == parent)
            assert ids == [row for row in children.tolist() if level.has_vector[row]]


@pytest.mark.parametrize("codec", ["fp16", "fp32"])
@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("shard_parents", [None, 17])
def test_search_returns_every_child_in_row_order(tmp_path, codec, mmap, shard_parents):
    levels = fake_pyramid(4, [3, 5], 24, tiles=400, holes=0.3, thinning=0.3)
    write_fake_index(tmp_path, levels, codec=codec, shard_parents=shard_parents)
    index = TileIndex.open(tmp_path, mmap=mmap)
    above, below = levels
    query = below.vectors[7]
    parents = np.flatnonzero(np.random.default_rng(0).random(len(above.codes)) < 0.5)
    candidates = index.levels[1].search(query, parents)
    inside = np.isin(below.codes >> np.uint64(4), above.codes[parents]) & below.has_vector
    assert candidates.rows.tolist() == np.flatnonzero(inside).tolist()
    assert candidates.similarities == pytest.approx(
        below.vectors[candidates.rows] @ query, abs=1e-3 if codec == "fp16" else 1e-6
    )
    assert (above.codes[parents[candidates.slots]] == below.codes[candidates.rows] >> np.uint64(4)).all()


def test_number_of_shards_does_not_change_results(tmp_path):
    levels = fake_pyramid(4, [2, 4, 6], 16, tiles=500, holes=0.3, thinning=0.5)
    write_fake_index(tmp_path / "one", levels)
    write_fake_index(tmp_path / "many", levels, shard_parents=31)
    one, many = TileIndex.open(tmp_path / "one"), TileIndex.open(tmp_path / "many")
    assert len(many.levels[2].shards) == 4
    for a, b in zip(one.levels, many.levels, strict=True):
        parents = np.arange(0, len(a.starts) - 1, 2)
        for x, y in zip(a.search(levels[0].vectors[0], parents), b.search(levels[0].vectors[0], parents), strict=True):
            assert np.array_equal(x, y)
    assert verify(tmp_path / "many") == []


def test_same_input_gives_same_bytes(tmp_path):
    levels = fake_pyramid(8, [2, 4], 40, tiles=300)
    for name in ("a", "b"):
        write_fake_index(tmp_path / name, levels)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert "z04-0000.holes.npy" in files
    assert files == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in files)


def test_id_depends_only_on_content(tmp_path):
    levels = fake_pyramid(8, [2, 4], 16, tiles=300)
    first = write_fake_index(tmp_path / "a", levels).id
    levels[1].vectors[np.flatnonzero(~levels[1].has_vector)[0]] = 0  # a row without vector
    assert write_fake_index(tmp_path / "b", levels).id == first
    levels[1].vectors[np.flatnonzero(levels[1].has_vector)[0], 0] += 0.01
    assert write_fake_index(tmp_path / "c", levels).id != first


def test_stored_vectors_equal_numpy_half_precision(tmp_path):
    """FAISS rounds some ties upwards; 1,200 x 512 components contain a few dozen ties."""
    levels = fake_pyramid(8, [6], 512, tiles=1200, holes=0)
    write_fake_index(tmp_path, levels)
    stored = ShardLists.open(tmp_path / "z06-0000.faiss").stored(0)
    assert (stored.view("<f2") == levels[0].vectors.astype("<f2")).all()


def test_shard_entry_round_trips_through_record(small):
    directory, levels, _ = small
    entry = write_shard(
        directory,
        9,
        3,
        levels[0].codes,
        levels[0].vectors,
        levels[0].has_vector,
        parents=np.zeros(len(levels[0].codes), dtype=np.int64),
        first_row=0,
        first_parent=0,
        parent_count=1,
    )
    again = ShardEntry.from_json(json.loads(json.dumps(entry.to_record())))
    assert again == entry
    assert again.files == entry.files


@pytest.mark.parametrize("broken", ["codes", "parents", "outside", "lengths", "vectors"])
def test_shard_out_of_order_raises(tmp_path, broken):
    codes, parents = np.array([3, 5, 9], dtype=np.uint64), np.array([0, 0, 1])
    vectors = np.eye(3, 8, dtype=np.float32)
    flags = np.ones(3, dtype=bool)
    if broken == "codes":
        codes = codes[::-1]
    parents = {"parents": parents[::-1], "outside": parents + 5, "lengths": parents[:2]}.get(broken, parents)
    with pytest.raises(IndexFormatError, match="zoom 2 shard 0"):
        write_shard(
            tmp_path,
            2,
            0,
            codes,
            vectors[:2] if broken == "vectors" else vectors,
            flags,
            parents=parents,
            first_row=0,
            first_parent=0,
            parent_count=2,
        )


def edit(directory: Path, change) -> None:
    path = directory / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


DAMAGES = {
    "no directory": (lambda d: shutil.rmtree(d), IndexMissingError, "no index at .*tilebeam index"),
    "no manifest": (lambda d: (d / "manifest.json").unlink(), IndexMissingError, "unfinished"),
    "cut manifest": (lambda d: (d / "manifest.json").write_text('{"format": "til'), IndexDamagedError, "manifest.json"),
    "binary manifest": (lambda d: (d / "manifest.json").write_bytes(b"\xff\xfe\x00"), IndexDamagedError, "manifest"),
    "list manifest": (
        lambda d: (d / "manifest.json").write_text("[]"),
        IndexDamagedError,
        "not the manifest of",
    ),
    "other format": (
        lambda d: edit(d, lambda m: m.update(format="x")),
        IndexDamagedError,
        "not the manifest of",
    ),
    "newer version": (lambda d: edit(d, lambda m: m.update(version=2)), IndexVersionError, "version 2.* reads 1"),
    "no zooms": (lambda d: edit(d, lambda m: m.update(zooms=[])), IndexDamagedError, "lists no zooms"),
    "zooms missing": (lambda d: edit(d, lambda m: m.pop("zooms")), IndexDamagedError, "zooms"),
    "zoom order": (lambda d: edit(d, lambda m: m["zooms"].reverse()), IndexDamagedError, "damaged"),
    "rows": (lambda d: edit(d, lambda m: m["zooms"][1].update(rows=7)), IndexDamagedError, "counts 7 rows"),
    "other encoder": (lambda d: edit(d, lambda m: m["zooms"][0].update(encoder="e")), IndexDamagedError, "its id is"),
    "unlisted file": (
        lambda d: edit(d, lambda m: m["files"].pop("z06-0000.faiss")),
        IndexDamagedError,
        "does not list z06",
    ),
    "escape": (
        lambda d: edit(d, lambda m: m["files"].update({"../x": {"bytes": 0, "sha256": ""}})),
        IndexDamagedError,
        "outside the index",
    ),
    "file missing": (lambda d: (d / "z06-0000.tiles.npy").unlink(), IndexDamagedError, "z06-0000.tiles.npy is missing"),
    "file cut": (
        lambda d: (d / "z08-0000.faiss").write_bytes((d / "z08-0000.faiss").read_bytes()[:-1]),
        IndexDamagedError,
        r"z08-0000.faiss has \d+ bytes, the manifest says",
    ),
    "flipped byte": (lambda d: flip(d / "z06-0000.holes.npy", -3), IndexDamagedError, "holes.npy differs"),
    "swapped file": (
        lambda d: shutil.copy(d / "z04-0000.tiles.npy", d / "z08-0000.tiles.npy"),
        IndexDamagedError,
        "z08-0000.tiles.npy",
    ),
}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
def test_opening_a_damaged_index_names_the_damage(small, damage):
    directory, _, _ = small
    harm, error, words = DAMAGES[damage]
    harm(directory)
    with pytest.raises(error, match=words):
        TileIndex.open(directory)


def test_file_or_empty_directory_raises_missing(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(IndexMissingError, match="is a file"):
        TileIndex.open(tmp_path / "file")
    with pytest.raises(IndexMissingError, match="no index at"):
        TileIndex.open(tmp_path)


def test_verify_finds_flipped_byte_in_large_file(tmp_path):
    levels = fake_pyramid(8, [5, 6], 512, tiles=1200)
    write_fake_index(tmp_path, levels)
    path = tmp_path / "z06-0000.faiss"
    assert path.stat().st_size > SMALL_FILE_BYTES
    seen: list[str] = []
    assert verify(tmp_path, lambda name, size: seen.append(name)) == []
    assert len(seen) == 6
    flip(path, path.stat().st_size // 2)
    TileIndex.open(tmp_path)
    (problem,) = verify(tmp_path)
    assert "z06-0000.faiss differs from the manifest" in problem


def test_verify_checks_content_hash_if_file_hashes_match(small):
    """A builder might store other vectors than it hashed."""
    directory, levels, photo = small
    wrong = fake_pyramid(99, [4, 6, 8], 32, tiles=300, thinning=0.2)
    write_fake_index(directory.parent / "other", wrong, photo=photo)
    manifest, theirs = Manifest.read(directory), Manifest.read(directory.parent / "other")
    shards = {z.zoom: z.shards[0] for z in theirs.zooms}
    swapped = write_shard(
        directory,
        8,
        0,
        levels[2].codes,
        levels[2].vectors[::-1],
        levels[2].has_vector,
        parents=np.searchsorted(levels[1].codes, levels[2].codes >> np.uint64(4)),
        first_row=0,
        first_parent=0,
        parent_count=len(levels[1].codes),
    )
    kept = {f.name: f for f in manifest.files} | {f.name: f for f in swapped.files}
    Manifest(**{**vars(manifest), "files": tuple(kept.values())}).write(directory)
    assert any("content hash" in problem for problem in verify(directory))
    assert shards[8].content != swapped.content
