"""Embedding photo sets: in order, in bounded memory, cached, resumed after a kill, with damaged files rejected."""

import threading
from pathlib import Path

import numpy as np
import pytest
from damaged import encoded, make_damaged, picture
from numpy.typing import NDArray
from PIL import Image

from indexer.errors import PhotoSetError
from indexer.photos import embed as embedding_module
from indexer.photos.embed import embed_photos
from indexer.photos.photo_set import PhotoSet
from indexer.photos.read import read_photos
from indexer.photos.splits import split
from retrieval.pictures.limits import PhotoLimits
from retrieval.pictures.photo import decode_photo
from retrieval.testing.fake import FakePhotoEncoder


class CountingEncoder(FakePhotoEncoder):
    """The fake encoder; counts pictures, and the maximum that was prepared and not yet encoded."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prepared = self.batches = self.encoded = self.max_waiting = 0
        self.lock = threading.Lock()
        self.threads: set[int] = set()

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        with self.lock:
            self.prepared += 1
            self.max_waiting = max(self.max_waiting, self.prepared - self.encoded)
        return super().prepare(image)

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        assert len(batch) == self.batch_size, "one constant shape"
        self.threads.add(threading.get_ident())
        with self.lock:
            self.batches += 1
            self.encoded += len(batch)
        return super().encode(batch)


def photo_set(folder: Path, n: int, seed: int = 0) -> PhotoSet:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(f"{i}.jpg" for i in range(n))
    for name in names:
        (folder / name).write_bytes(encoded(picture(rng)))
    return PhotoSet(tuple(str(folder / name) for name in names), names, rng.uniform(-9, 9, n), rng.uniform(-9, 9, n))


def test_embeddings_equal_the_encoders_and_keep_the_sets_order(tmp_path: Path) -> None:
    photos, encoder, seen = photo_set(tmp_path, 61), CountingEncoder(), list[tuple[int, int]]()
    embedded = embed_photos(photos, encoder, on_progress=lambda done, total: seen.append((done, total)))
    images = [decode_photo(Path(path).read_bytes()) for path in photos.paths]
    own = FakePhotoEncoder().encode(np.stack([encoder.prepare(image) for image in images]))
    np.testing.assert_allclose(embedded.embeddings, own, atol=1e-6)
    assert embedded.photos is photos
    assert len(np.unique(embedded.hashes)) == 61
    assert seen == [(0, 61), *((min(8 * i, 61), 61) for i in range(1, 9))]
    assert encoder.threads == {threading.get_ident()}
    assert embedded.known().lng is photos.lng
    few = embedded.take(np.array([3, 1]))
    assert few.photos.names == ("3.jpg", "1.jpg")
    assert np.array_equal(few.embeddings, embedded.embeddings[[3, 1]])


def test_only_a_few_batches_of_pictures_are_in_memory(tmp_path: Path) -> None:
    encoder = CountingEncoder(batch_size=4)
    embed_photos(photo_set(tmp_path, 120), encoder)
    assert encoder.max_waiting <= 5 * 4


def test_a_second_run_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photo_set(tmp_path / "photos", 40)
    first = embed_photos(photos, CountingEncoder(), cache=tmp_path / "cache")
    monkeypatch.setattr(embedding_module, "read_picture", lambda *_: pytest.fail("a picture was opened"))
    again = CountingEncoder()
    shuffled = np.random.default_rng(0).permutation(40)
    second = embed_photos(photos.take(shuffled), again, cache=tmp_path / "cache")
    assert (again.prepared, again.batches) == (0, 0)
    assert np.array_equal(second.embeddings, first.embeddings[shuffled])
    assert np.array_equal(second.hashes, first.hashes[shuffled])


def test_cache_misses_for_a_replaced_picture_and_another_encoder(tmp_path: Path) -> None:
    photos, cache = photo_set(tmp_path / "photos", 20), tmp_path / "cache"
    before = embed_photos(photos, CountingEncoder(), cache=cache)
    Path(photos.paths[7]).write_bytes(encoded(picture(np.random.default_rng(99), 40)))
    encoder = CountingEncoder()
    after = embed_photos(photos, encoder, cache=cache)
    assert encoder.prepared == 1
    assert np.flatnonzero((before.embeddings != after.embeddings).any(axis=1)).tolist() == [7]
    other = CountingEncoder(seed=1)
    embed_photos(photos, other, cache=cache)
    assert other.prepared == 20
    namesakes, same = photo_set(tmp_path / "others", 20, seed=5), CountingEncoder()
    embed_photos(namesakes, same, cache=cache)
    assert same.prepared == 20


def test_killed_run_resumes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_module, "SHARD_PHOTOS", 16)
    photos, cache = photo_set(tmp_path / "photos", 64), tmp_path / "cache"

    class Killed(CountingEncoder):
        def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            if self.batches == 5:
                raise KeyboardInterrupt
            return super().encode(batch)

    with pytest.raises(KeyboardInterrupt):
        embed_photos(photos, Killed(), cache=cache)
    assert not list(cache.rglob("*.tmp"))
    encoder = CountingEncoder()
    resumed = embed_photos(photos, encoder, cache=cache)
    assert encoder.prepared == 64 - 40
    assert np.array_equal(resumed.embeddings, embed_photos(photos, CountingEncoder()).embeddings)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "no archive", "another width"])
def test_damaged_cache_shard_is_embedded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setattr(embedding_module, "SHARD_PHOTOS", 16)
    photos, cache = photo_set(tmp_path / "photos", 48), tmp_path / "cache"
    whole = embed_photos(photos, CountingEncoder(), cache=cache)
    shards = sorted(cache.rglob("*.npz"))
    assert len(shards) == 3
    data = bytearray(shards[0].read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    if damage == "another width":
        with np.load(shards[0]) as arrays:
            np.savez(shards[0], **{**arrays, "embeddings": arrays["embeddings"][:, :5]})
    else:
        left = {"cut": data[:-40], "flipped": data, "empty": b"", "no archive": b"shard"}[damage]
        shards[0].write_bytes(left)
    encoder = CountingEncoder()
    again = embed_photos(photos, encoder, cache=cache)
    assert encoder.prepared == 16
    assert np.array_equal(again.embeddings, whole.embeddings)
    healed = CountingEncoder()
    embed_photos(photos, healed, cache=cache)
    assert healed.prepared == 0


def test_every_kind_of_damage_is_rejected_and_the_rest_embedded(tmp_path: Path) -> None:
    damaged = make_damaged(tmp_path / "photos")
    embedded = embed_photos(read_photos(damaged.table), FakePhotoEncoder(batch_size=32), cache=tmp_path / "cache")
    assert {rejection.row: rejection.reason for rejection in embedded.photos.rejected} == damaged.expected
    assert embedded.photos.names == damaged.good
    assert np.isfinite(embedded.embeddings).all()
    assert embedded.embeddings.shape == (len(damaged.good), 32)
    assert set(split(embedded.photos, embedded.hashes).split or ()) == {"train", "validation", "test"}


def test_rejected_photo_is_tried_again_in_the_next_run(tmp_path: Path) -> None:
    photos = photo_set(tmp_path, 10)
    whole = Path(photos.paths[4]).read_bytes()
    Path(photos.paths[4]).write_bytes(whole[:50])
    assert len(embed_photos(photos, CountingEncoder(), cache=tmp_path / "cache")) == 9
    Path(photos.paths[4]).write_bytes(whole)
    encoder = CountingEncoder()
    assert len(embed_photos(photos, encoder, cache=tmp_path / "cache")) == 10
    assert encoder.prepared == 1


def test_photos_over_the_limits_or_with_nan_embeddings_are_rejected(tmp_path: Path) -> None:
    photos = photo_set(tmp_path, 20)

    class Odd(FakePhotoEncoder):
        def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            vectors = super().encode(batch)
            vectors[1, 0] = np.nan
            return vectors

    odd = embed_photos(photos, Odd(), cache=tmp_path / "cache").photos
    assert [(r.name, r.reason) for r in odd.rejected] == [(f"{i}.jpg", "embedding not finite") for i in (1, 9, 17)]
    with pytest.raises(PhotoSetError, match=r"no photo can be used of 20 \(20 image too large\)"):
        embed_photos(photos, FakePhotoEncoder(), limits=PhotoLimits(max_bytes=100))


def test_no_readable_picture_raises_with_counts_by_reason(tmp_path: Path) -> None:
    photos = photo_set(tmp_path, 12)
    for i, path in enumerate(photos.paths):
        Path(path).write_bytes(b"" if i % 3 else b"no picture")
    with pytest.raises(PhotoSetError, match=r"no photo can be used of 12 \(8 empty file; 4 unreadable image\)"):
        embed_photos(photos, FakePhotoEncoder())
