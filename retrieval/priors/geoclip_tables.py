"""What GeoCLIP's location encoder says of places, kept: the gallery and a zoom's tile centres as files, deeper tiles in
memory as they are asked for.

A file is whole or absent, and its name carries the fingerprint of what made it. Knows no pictures.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from retrieval.files import write_npy
from tile_cache.addressing import centres_of_codes, children_of_codes

__all__ = ["EncodesPlaces", "QuarterTable", "kept", "tile_embeddings"]

Codes = NDArray[np.uint64]
Vectors = NDArray[np.float32]
_log = logging.getLogger("tilebeam.retrieval")


class EncodesPlaces(Protocol):
    """What a location encoder has to offer."""

    dim: int
    fingerprint: str
    logit_scale: float

    def encode(self, lat: NDArray[np.float64], lng: NDArray[np.float64]) -> Vectors:
        """Places, (n,) degrees each, to (n, dim) float32, unit rows."""
        ...


def kept(folders: Sequence[Path], name: str, rows: int, dim: int, make: Callable[[], Vectors]) -> Vectors:
    """The (rows, dim) vectors in name.npy of the first folder that has them, as fp16; else made, for the last folder.

    Where that cannot be written, or there is none, they are rounded as if they had been kept.
    """
    for folder in folders:
        found = _load(folder / f"{name}.npy", rows, dim)
        if found is not None:
            return found.astype(np.float32)
    _log.warning("embedding %s places for GeoCLIP, once; minutes where there are few cores", f"{rows:,}")
    made = make().astype(np.float16)
    for folder in folders[-1:]:
        _keep(folder / f"{name}.npy", made)
    return made.astype(np.float32)


def tile_embeddings(encoder: EncodesPlaces, codes: Codes, zoom: int) -> Vectors:
    """The centres of tiles, (n,) codes, to (n, dim)."""
    lng, lat = centres_of_codes(codes, zoom)
    return encoder.encode(lat, lng)


class QuarterTable:
    """The vectors of tiles' four quarters, those lately asked for kept in memory. Safe to share between threads."""

    def __init__(self, encoder: EncodesPlaces, most: int = 20_000) -> None:
        """`most`: tiles whose quarters are kept, 4 kB each."""
        self._encoder, self._lock = encoder, threading.Lock()
        self._cache: LRUCache[tuple[int, int], NDArray[np.float16]] = LRUCache(most)

    def quarters(self, parents: Codes, zoom: int) -> Vectors:
        """Distinct tiles of a zoom, (n,) codes, to the vectors of their quarters, (n, 4, dim), in Morton order."""
        keys = [(zoom, code) for code in parents.tolist()]
        with self._lock:
            found = {key: self._cache[key] for key in keys if key in self._cache}
        missing = [key for key in keys if key not in found]
        if missing:
            found |= zip(missing, self._made(missing, zoom), strict=True)
        with self._lock:
            for key in keys:
                self._cache[key] = found[key]
        return np.stack([found[key] for key in keys]).astype(np.float32)

    def _made(self, missing: list[tuple[int, int]], zoom: int) -> NDArray[np.float16]:
        parents = np.array([code for _, code in missing], dtype=np.uint64)
        vectors = tile_embeddings(self._encoder, children_of_codes(parents, 1), zoom + 1)
        return vectors.astype(np.float16).reshape(len(parents), 4, self._encoder.dim)


def _load(path: Path, rows: int, dim: int) -> NDArray[np.float16] | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        return None
    whole = found.shape == (rows, dim) and found.dtype == np.float16 and bool(np.isfinite(found).all())
    return found if whole else None


def _keep(path: Path, vectors: NDArray[np.float16]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npy(path, vectors)
    except OSError as exc:
        _log.warning("%s cannot be written (%s): it will be made again next time", path, exc)
