"""Photos to embeddings, once: decoded in threads, encoded in batches, kept on disk as they come.

A photo that cannot be decoded, or whose embedding is no number, is refused like a bad row; it is tried again in every
run, as it may have been repaired. No more pictures are in memory than a few batches have.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.errors import PhotoSetError
from indexer.photos.dhash import dhash
from indexer.photos.embedding_cache import EmbeddingCache, photo_key
from indexer.photos.known import KnownPictures
from indexer.photos.photo_set import Fault, PhotoSet, Reason
from indexer.photos.pictures import read_picture
from indexer.threads import ahead
from retrieval.encoders.photo import PhotoLimits
from retrieval.priors.base import Prior

if TYPE_CHECKING:  # the module that holds it loads torch, which reading and splitting photos do not need
    from retrieval.encoders.open_clip import EncodesPhotos

__all__ = ["SHARD_PHOTOS", "Embedded", "embed_photos", "known_under"]

SHARD_PHOTOS = 4096
"""Photos after which what was embedded is written to the cache: at most so many are lost when a run is killed."""

_LIMITS = PhotoLimits()


@dataclass(frozen=True)
class Embedded:
    """Photos that could be read (those that could not are in `photos.rejected`) with what was made of them."""

    photos: PhotoSet
    embeddings: NDArray[np.float32]
    """(n, dim) unit rows."""
    hashes: NDArray[np.uint64]
    """(n,) difference hashes, which tell near-duplicates (see `splits.split`)."""

    def __len__(self) -> int:
        return len(self.photos)

    def known(self) -> KnownPictures:
        """What calibration fits to and evaluation measures on."""
        return KnownPictures(self.embeddings, self.photos.lng, self.photos.lat)

    def take(self, rows: NDArray[np.intp]) -> "Embedded":
        """Some of them, in the given order."""
        return Embedded(self.photos.take(rows), self.embeddings[rows], self.hashes[rows])


def embed_photos(
    photos: PhotoSet,
    encoder: "EncodesPhotos",
    *,
    cache: Path | None = None,
    limits: PhotoLimits = _LIMITS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Decode and embed every photo, in order; `cache`: a folder where a later run, or this one resumed, finds them.

    `on_progress(done, total)` counts photos, those found in the cache at once. Raises PhotoSetError with the counts
    where no photo can be used; the encoder's own errors and a full disk's pass through.
    """
    work = _Work(photos, encoder, cache)
    report = on_progress or (lambda done, total: None)
    done = work.recall()
    report(done, len(photos))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decode") as pool:
        prepared = ahead(pool, partial(_prepare, photos, encoder, limits), work.missing(), 3 * encoder.batch_size)
        try:
            while batch := list(islice(prepared, encoder.batch_size)):
                work.take(batch)
                done += len(batch)
                report(done, len(photos))
        finally:
            pool.shutdown(cancel_futures=True)  # else an interrupt would wait for every picture that is queued
            work.keep()
    return work.embedded()


def known_under(
    embedded: Embedded,
    prior: Prior | None,
    *,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> KnownPictures:
    """The photos as pictures under a prior, embedded by its own encoder too where it has one.

    Raises PhotoSetError where that gives no numbers for some of them.
    """
    if prior is None or prior.encoder is None:
        return embedded.known().under(prior)
    theirs = embed_photos(embedded.photos, prior.encoder, cache=cache, on_progress=on_progress)
    if len(theirs) != len(embedded):
        name = theirs.photos.rejected[-1].name
        raise PhotoSetError(f"{name} cannot be embedded by the encoder of the prior {prior.name}: leave it out")
    return embedded.known().under(prior, theirs.embeddings)


class _Prepared(NamedTuple):
    """A photo's row with its input and hash, or what is wrong with it."""

    row: int
    pixels: NDArray[np.float32] | None
    hash: int
    fault: Fault | None


def _prepare(photos: PhotoSet, encoder: "EncodesPhotos", limits: PhotoLimits, row: int) -> _Prepared:
    image = read_picture(photos.paths[row], limits)
    if isinstance(image, Fault):
        return _Prepared(row, None, 0, image)
    return _Prepared(row, encoder.prepare(image), dhash(image), None)


class _Work:
    """The arrays under way, and which of their rows are whole, refused, or not yet in the cache."""

    def __init__(self, photos: PhotoSet, encoder: "EncodesPhotos", cache: Path | None) -> None:
        self._photos, self._encoder = photos, encoder
        self._embeddings = np.zeros((len(photos), encoder.dim), dtype=np.float32)
        self._hashes = np.zeros(len(photos), dtype=np.uint64)
        self._known = np.zeros(len(photos), dtype=np.bool_)
        self._faults: dict[int, Fault] = {}
        self._cache = None if cache is None else EmbeddingCache(cache, encoder.fingerprint, encoder.dim)
        # Asked before a picture is read: if it is replaced meanwhile, the old key finds nothing next time.
        self._keys = [] if cache is None else [photo_key(path) for path in photos.paths]
        self._unkept: list[int] = []

    def recall(self) -> int:
        """Fill in what the cache has; returns how many that were."""
        if self._cache is not None:
            self._known = self._cache.fill(self._keys, self._embeddings, self._hashes)
        return int(self._known.sum())

    def missing(self) -> Iterator[int]:
        """Rows that are to be embedded."""
        return iter(np.flatnonzero(~self._known).tolist())

    def take(self, batch: list[_Prepared]) -> None:
        """Encode at most one batch, padded to the constant shape that makes its bits independent of its neighbours."""
        self._faults.update((row, fault) for row, _, _, fault in batch if fault is not None)
        good = [(row, pixels, hash_) for row, pixels, hash_, _ in batch if pixels is not None]
        if not good:
            return
        stack = [pixels for _, pixels, _ in good]
        vectors = self._encoder.encode(np.stack(stack + stack[-1:] * (self._encoder.batch_size - len(stack))))
        for (row, _, hash_), vector in zip(good, vectors, strict=False):
            if np.isfinite(vector).all():
                self._embeddings[row], self._hashes[row], self._known[row] = vector, hash_, True
                self._unkept.append(row)
            else:
                self._faults[row] = Fault(Reason.NOT_FINITE, f"{self._encoder.name} makes no numbers of it")
        if len(self._unkept) >= SHARD_PHOTOS:
            self.keep()

    def keep(self) -> None:
        """Write what is new to the cache."""
        rows, self._unkept = self._unkept, []
        if self._cache is not None and rows:
            self._cache.add([self._keys[row] for row in rows], self._embeddings[rows], self._hashes[rows])

    def embedded(self) -> Embedded:
        """What came out, without the rows that were refused."""
        photos = self._photos.without(self._faults).check_not_empty()
        if not self._faults:
            return Embedded(photos, self._embeddings, self._hashes)
        return Embedded(photos, self._embeddings[self._known], self._hashes[self._known])
