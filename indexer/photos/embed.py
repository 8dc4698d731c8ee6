"""Photos to embeddings: decoded in threads, encoded in batches, and cached on disk as the run goes.

A photo that cannot be decoded, or whose embedding is not finite, is rejected like a bad row. Every run tries it again,
because the file may have been repaired. At most a few batches of decoded pictures are in memory.

`embed_photos` is the entry point. `KnownPictures` is what calibration is fitted to and evaluation measures on.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.errors import PhotoSetError
from indexer.photos.duplicates import dhash
from indexer.photos.embedding_cache import EmbeddingCache, photo_key
from indexer.photos.files import read_picture
from indexer.photos.photo_set import Fault, PhotoSet, Reason
from indexer.threads import ahead
from retrieval.encoders.base import EncodesPhotos
from retrieval.pictures.limits import PhotoLimits
from retrieval.priors.base import Belief, Prior
from tile_cache.addressing import codes_at

__all__ = ["SHARD_PHOTOS", "Embedded", "KnownPictures", "embed_photos", "joined", "known_under"]

SHARD_PHOTOS = 4096
"""Number of new embeddings after which they are written to the cache; a killed run loses at most so many."""

_BELIEF_BATCH = 16  # beliefs computed at once: each takes up to a megabyte
_LIMITS = PhotoLimits()


@dataclass(frozen=True)
class KnownPictures:
    """Embedded pictures, (n, d) float32 unit rows, and their places, (n,) float64 degrees, nan for no place.

    With a `prior`, `features`, (n, f) float32, are the inputs from which it computes its belief for each picture.
    """

    embeddings: NDArray[np.float32]
    lng: NDArray[np.float64]
    lat: NDArray[np.float64]
    prior: Prior | None = None
    features: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not len(self.embeddings) == len(self.lng) == len(self.lat):
            raise ValueError(
                f"{len(self.embeddings)} embeddings, {len(self.lng)} longitudes and {len(self.lat)} latitudes: "
                "give one of each per picture"
            )

    def __len__(self) -> int:
        return len(self.lng)

    def codes(self, zoom: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Morton codes of the pictures' tiles, (n,) uint64, and which pictures have a place, (n,) bool."""
        has_place = np.isfinite(self.lng) & np.isfinite(self.lat)
        codes = codes_at(np.where(has_place, self.lng, 0.0), np.where(has_place, self.lat, 0.0), zoom)
        return codes, has_place

    def take(self, rows: NDArray[np.intp]) -> "KnownPictures":
        """The pictures of these rows, in the given order."""
        features = None if self.features is None else self.features[rows]
        return KnownPictures(self.embeddings[rows], self.lng[rows], self.lat[rows], self.prior, features)

    def under(self, prior: Prior | None, features: NDArray[np.float32] | None = None) -> "KnownPictures":
        """The same pictures with a prior. `features`: (n, f) from the prior's own encoder; None: the embeddings."""
        return replace(self, prior=prior, features=self.embeddings if features is None else features)

    def beliefs(self, batch: int = _BELIEF_BATCH) -> Iterator[Belief | None]:
        """The prior's belief for each picture, computed `batch` pictures at a time; None without a prior."""
        for start in range(0, len(self), batch):
            if self.prior is None or self.features is None:
                yield from [None] * min(batch, len(self) - start)
            else:
                yield from self.prior.beliefs(self.features[start : start + batch])


def joined(sets: Sequence[KnownPictures]) -> KnownPictures:
    """Several sets as one, in order and without a prior."""
    return KnownPictures(
        np.concatenate([pictures.embeddings for pictures in sets]),
        np.concatenate([pictures.lng for pictures in sets]),
        np.concatenate([pictures.lat for pictures in sets]),
    )


@dataclass(frozen=True)
class Embedded:
    """The photos that could be read, with their embeddings; the others are in `photos.rejected`."""

    photos: PhotoSet
    embeddings: NDArray[np.float32]
    """(n, dim) unit rows."""
    hashes: NDArray[np.uint64]
    """(n,) difference hashes, from which `splits.split` finds near-duplicates."""

    def __len__(self) -> int:
        return len(self.photos)

    def known(self) -> KnownPictures:
        """The embeddings with their places, without names and files."""
        return KnownPictures(self.embeddings, self.photos.lng, self.photos.lat)

    def take(self, rows: NDArray[np.intp]) -> "Embedded":
        """The photos of these rows, in the given order."""
        return Embedded(self.photos.take(rows), self.embeddings[rows], self.hashes[rows])


def embed_photos(
    photos: PhotoSet,
    encoder: EncodesPhotos,
    *,
    cache: Path | None = None,
    limits: PhotoLimits = _LIMITS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Decode and embed every photo, in order. `cache`: a folder that keeps embeddings for later and resumed runs.

    `on_progress(done, total)` counts photos; those in the cache count as done from the start. Raises PhotoSetError with
    the counts if no photo can be used. Errors of the encoder and of a full disk pass through.
    """
    work = _Work(photos, encoder, cache)
    report = on_progress or (lambda done, total: None)
    done = work.load_cached()
    report(done, len(photos))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decode") as pool:
        prepared = ahead(pool, partial(_prepare, photos, encoder, limits), work.missing(), 3 * encoder.batch_size)
        try:
            while batch := list(islice(prepared, encoder.batch_size)):
                work.encode(batch)
                done += len(batch)
                report(done, len(photos))
        finally:
            pool.shutdown(cancel_futures=True)  # without this, an interrupt waits for every queued picture
            work.flush()
    return work.embedded()


def known_under(
    embedded: Embedded,
    prior: Prior | None,
    *,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> KnownPictures:
    """The photos as known pictures with a prior. If the prior has an encoder of its own, that embeds them as well.

    Raises PhotoSetError if the prior's encoder cannot embed some of them.
    """
    if prior is None or prior.encoder is None:
        return embedded.known().under(prior)
    by_prior = embed_photos(embedded.photos, prior.encoder, cache=cache, on_progress=on_progress)
    if len(by_prior) != len(embedded):
        name = by_prior.photos.rejected[-1].name
        raise PhotoSetError(f"{name} cannot be embedded by the encoder of the prior {prior.name}: leave the photo out")
    return embedded.known().under(prior, by_prior.embeddings)


class _Prepared(NamedTuple):
    """A photo's row with its input and hash, or its fault."""

    row: int
    pixels: NDArray[np.float32] | None
    hash: int
    fault: Fault | None


def _prepare(photos: PhotoSet, encoder: EncodesPhotos, limits: PhotoLimits, row: int) -> _Prepared:
    image = read_picture(photos.paths[row], limits)
    if isinstance(image, Fault):
        return _Prepared(row, None, 0, image)
    return _Prepared(row, encoder.prepare(image), dhash(image), None)


class _Work:
    """The arrays of a run, and which of their rows are done, rejected, or not yet in the cache."""

    def __init__(self, photos: PhotoSet, encoder: EncodesPhotos, cache: Path | None) -> None:
        self._photos, self._encoder = photos, encoder
        self._embeddings = np.zeros((len(photos), encoder.dim), dtype=np.float32)
        self._hashes = np.zeros(len(photos), dtype=np.uint64)
        self._done = np.zeros(len(photos), dtype=np.bool_)
        self._faults: dict[int, Fault] = {}
        self._cache = None if cache is None else EmbeddingCache(cache, encoder.fingerprint, encoder.dim)
        # Keys are taken before any picture is read: if a file is replaced meanwhile, its next lookup misses.
        self._keys = [] if cache is None else [photo_key(path) for path in photos.paths]
        self._uncached: list[int] = []

    def load_cached(self) -> int:
        """Fill in the rows that the cache has; returns their number."""
        if self._cache is not None:
            self._done = self._cache.fill(self._keys, self._embeddings, self._hashes)
        return int(self._done.sum())

    def missing(self) -> Iterator[int]:
        """The rows that are not embedded yet."""
        return iter(np.flatnonzero(~self._done).tolist())

    def encode(self, batch: list[_Prepared]) -> None:
        """Encode at most one batch, padded to the encoder's batch size.

        The constant shape makes an embedding's bits independent of the other pictures in its batch.
        """
        self._faults.update((row, fault) for row, _, _, fault in batch if fault is not None)
        good = [(row, pixels, hash_) for row, pixels, hash_, _ in batch if pixels is not None]
        if not good:
            return
        stack = [pixels for _, pixels, _ in good]
        vectors = self._encoder.encode(np.stack(stack + stack[-1:] * (self._encoder.batch_size - len(stack))))
        for (row, _, hash_), vector in zip(good, vectors, strict=False):
            if np.isfinite(vector).all():
                self._embeddings[row], self._hashes[row], self._done[row] = vector, hash_, True
                self._uncached.append(row)
            else:
                detail = f"{self._encoder.name} gives an embedding with nan or infinite values"
                self._faults[row] = Fault(Reason.NOT_FINITE, detail)
        if len(self._uncached) >= SHARD_PHOTOS:
            self.flush()

    def flush(self) -> None:
        """Write the new embeddings to the cache."""
        rows, self._uncached = self._uncached, []
        if self._cache is not None and rows:
            self._cache.add([self._keys[row] for row in rows], self._embeddings[rows], self._hashes[rows])

    def embedded(self) -> Embedded:
        """The result, without the rejected rows."""
        photos = self._photos.without(self._faults).check_not_empty()
        if not self._faults:
            return Embedded(photos, self._embeddings, self._hashes)
        return Embedded(photos, self._embeddings[self._done], self._hashes[self._done])
