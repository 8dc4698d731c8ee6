"""What an index's pictures are registered against: a reference made of the index's own source, with its canvases.

Nothing is fetched. Loading the built-in Earth takes seconds, so a registrar is made at once and loaded when it is
wanted, or in another thread. It knows no pictures and encoders.
"""

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CalibrationError, NoReferenceError
from retrieval.index.calibration import Calibration
from retrieval.index.manifest import Manifest
from retrieval.registration.accept import BUILT_IN, Acceptance
from retrieval.registration.canvases import CanvasCache
from retrieval.registration.reference import BuiltinEarth, Reference
from retrieval.registration.tiles import TileReference
from tile_cache.bluemarble import BlueMarble
from tile_cache.errors import TileCacheError
from tile_cache.open import open_source
from tile_cache.xyz import XyzSource

__all__ = ["CANVAS_BYTES", "Registrar", "acceptance_of", "reference_of"]

CANVAS_BYTES = 256_000_000
"""Memory of a registrar's canvases, which are drawn once while they fit."""


class Registrar:
    """The reference of one index and its canvases. Safe to share between threads.

    `why_not`: why pictures cannot be registered at all; None if they can. `is_loaded`: whether `cache` returns at once.
    """

    def __init__(self, reference: Reference | None, why_not: str | None = None, max_bytes: int = CANVAS_BYTES) -> None:
        self.why_not, self.is_loaded = why_not, False
        self._reference, self._loading = reference, threading.Lock()
        self._cache = None if reference is None else CanvasCache(reference, max_bytes)

    @classmethod
    def of(cls, manifest: Manifest, source: str = "", max_bytes: int = CANVAS_BYTES) -> "Registrar":
        """For an index. `source`: text that names its tiles on this machine; unused for the built-in Earth."""
        if manifest.viewpoint != "above":
            return cls(None, "the index's pictures are not taken from above, or nobody said so when it was built")
        try:
            named = None if _is_builtin(manifest) else source or None
            return cls(reference_of(manifest, named), max_bytes=max_bytes)
        except (NoReferenceError, TileCacheError) as exc:
            return cls(None, str(exc))

    def load(self) -> None:
        """Read what the reference needs, if that was not done yet. Raises what the reference raises."""
        with self._loading:
            if not self.is_loaded and isinstance(self._reference, BuiltinEarth):
                self._reference.load()
            self.is_loaded = True

    @property
    def cache(self) -> CanvasCache:
        """The canvases, loaded. Raises NoReferenceError if there is no reference."""
        if self._cache is None:
            raise NoReferenceError(str(self.why_not))
        self.load()
        return self._cache

    @property
    def has_ground(self) -> Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]] | None:
        """For a search of all land, `BuiltinEarth.has_ground`; None for other references."""
        return self._reference.has_ground if isinstance(self._reference, BuiltinEarth) else None


def reference_of(manifest: Manifest | None, source: str | None, name: str = "the index") -> Reference:
    """What pictures are compared with: an index's own source, the tiles that `source` names, or the built-in Earth.

    `name`: the index's, for errors. Raises NoReferenceError, SourceError and StoreError.
    """
    if source is None:
        if manifest is None or _is_builtin(manifest):
            return BuiltinEarth()
        raise NoReferenceError(
            f"{name} was built from {manifest.source.get('name', 'a source')}, which is not at hand: name the same "
            "folder or .mbtiles file, to a service as TILEBEAM_TILES, to `tilebeam register` as --source"
        )
    opened = open_source(source)
    if isinstance(opened, XyzSource):
        raise NoReferenceError(f"{source} is on a server, and nothing is fetched here: give a folder or .mbtiles file")
    if manifest is not None and opened.info.identity not in manifest.source["identity"].split(" + "):
        raise NoReferenceError(
            f"{source} is not the source of {name} ({manifest.source.get('name', 'unknown')}): its identity differs; "
            "give the source that the index was built from"
        )
    if isinstance(opened, BlueMarble):
        return BuiltinEarth()
    info = opened.info
    zooms = None if manifest is None else [entry.zoom for entry in manifest.zooms]
    return TileReference(
        opened.read, info.identity, zooms or range(info.min_zoom, info.max_zoom + 1), tile_size=info.tile_size
    )


def _is_builtin(manifest: Manifest) -> bool:
    return str(manifest.source["identity"]).startswith("bluemarble")


def acceptance_of(calibration: Calibration) -> Acceptance:
    """The acceptance to judge registrations with. Raises CalibrationError for numbers of another version."""
    numbers = None if calibration.registration is None else calibration.registration.acceptance
    if numbers is None:
        return BUILT_IN
    try:
        return Acceptance.from_json(numbers)
    except ValueError as exc:
        raise CalibrationError(f"the calibration's {exc}; run `tilebeam calibrate`") from exc
