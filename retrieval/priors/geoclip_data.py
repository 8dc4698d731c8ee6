"""The files of the installed package `geoclip` (MIT, Vicente Vivanco), and tables of embeddings of places.

The package's weights and gallery are read as data: none of its code is imported, so none of that code's dependencies
are needed. Embeddings of the gallery and of one zoom's tile centres are kept as files; those of deeper tiles are kept
in memory. A file is whole or absent, and its name carries the fingerprint of the encoder that made it. This module
knows no pictures and no torch.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from retrieval.errors import PriorError
from retrieval.files import cache_folder, read_npy, write_npy
from tile_cache.addressing import centres_of_codes, children_of_codes

__all__ = [
    "EncodesPlaces",
    "QuarterTable",
    "cached_vectors",
    "gallery",
    "package_folder",
    "tables_folder",
    "tile_embeddings",
]

_GALLERY = Path("model", "gps_gallery", "coordinates_100K.csv")
_HEADER = "LAT,LON"

Codes = NDArray[np.uint64]
Vectors = NDArray[np.float32]
_log = logging.getLogger("tilebeam.retrieval")


class EncodesPlaces(Protocol):
    """A location encoder. `logit_scale`: the factor from a cosine to a logit."""

    dim: int
    fingerprint: str
    logit_scale: float

    def encode(self, lat: NDArray[np.float64], lng: NDArray[np.float64]) -> Vectors:
        """Places, (n,) degrees each, to (n, dim) float32, unit rows."""
        ...


def package_folder() -> Path:
    """The folder of the installed package. Raises PriorError if it is not installed."""
    spec = find_spec("geoclip")
    if spec is None or not spec.submodule_search_locations:
        raise PriorError(
            "the package geoclip, whose weights and gallery are needed, is not installed: pip install geoclip"
        )
    return Path(spec.submodule_search_locations[0])


def gallery() -> NDArray[np.float64]:
    """Places of 100,000 photos of MP-16, (n, 2) degrees: latitude, longitude. Raises PriorError."""
    path = package_folder() / _GALLERY
    try:
        with open(path, encoding="utf-8") as lines:
            if lines.readline().strip() != _HEADER:
                raise ValueError(f"its first line is not {_HEADER}")
            places = np.loadtxt(lines, delimiter=",", dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as exc:
        raise PriorError(f"{path} cannot be read as a gallery ({exc}): install geoclip again") from exc
    return places


def tables_folder() -> Path:
    """The folder for tables that no prior's directory holds, in the user's cache."""
    return cache_folder() / "geoclip"


def cached_vectors(folders: Sequence[Path], name: str, rows: int, dim: int, make: Callable[[], Vectors]) -> Vectors:
    """The (rows, dim) float32 vectors in name.npy of the first folder that has them, else those of `make`.

    Vectors from `make` are written as fp16 to the last folder. They are rounded to fp16 even if they cannot be written,
    so that answers do not depend on the cache.
    """
    for folder in folders:
        stored = _load(folder / f"{name}.npy", rows, dim)
        if stored is not None:
            return stored.astype(np.float32)
    _log.warning("embedding %s places for GeoCLIP, once; it takes minutes on few cores", f"{rows:,}")
    vectors = make().astype(np.float16)
    for folder in folders[-1:]:
        _store(folder / f"{name}.npy", vectors)
    return vectors.astype(np.float32)


def tile_embeddings(encoder: EncodesPlaces, codes: Codes, zoom: int) -> Vectors:
    """Embeddings of the centres of tiles: (n,) Morton codes to (n, dim)."""
    lng, lat = centres_of_codes(codes, zoom)
    return encoder.encode(lat, lng)


class QuarterTable:
    """Embeddings of tiles' four quarters; the most recently used are kept in memory. Threads may share it."""

    def __init__(self, encoder: EncodesPlaces, limit: int = 20_000) -> None:
        """`limit`: the number of tiles whose quarters are kept, 4 kB each."""
        self._encoder, self._lock = encoder, threading.Lock()
        self._recent: LRUCache[tuple[int, int], NDArray[np.float16]] = LRUCache(limit)

    def quarters(self, parents: Codes, zoom: int) -> Vectors:
        """Distinct tiles of a zoom, (n,) Morton codes, to their quarters' embeddings in Morton order, (n, 4, dim)."""
        keys = [(zoom, code) for code in parents.tolist()]
        with self._lock:
            vectors = {key: self._recent[key] for key in keys if key in self._recent}
        missing = [key for key in keys if key not in vectors]
        if missing:  # encoded outside the lock: two threads may encode the same tile, with equal results
            vectors |= zip(missing, self._encoded(missing, zoom), strict=True)
        with self._lock:
            for key in keys:
                self._recent[key] = vectors[key]
        return np.stack([vectors[key] for key in keys]).astype(np.float32)

    def _encoded(self, missing: list[tuple[int, int]], zoom: int) -> NDArray[np.float16]:
        parents = np.array([code for _, code in missing], dtype=np.uint64)
        vectors = tile_embeddings(self._encoder, children_of_codes(parents, 1), zoom + 1)
        return vectors.astype(np.float16).reshape(len(parents), 4, self._encoder.dim)


def _load(path: Path, rows: int, dim: int) -> NDArray[np.float16] | None:
    """The table in a file; None if there is none or it is damaged, as it can be made again."""
    try:
        table: NDArray[np.float16] = read_npy(path, np.dtype("<f2"), inside=path.parent)
    except (OSError, ValueError):
        return None
    valid = table.shape == (rows, dim) and bool(np.isfinite(table).all())
    return table if valid else None


def _store(path: Path, vectors: NDArray[np.float16]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npy(path, vectors)
    except OSError as exc:
        _log.warning("%s cannot be written (%s): it will be made again next time", path, exc)
