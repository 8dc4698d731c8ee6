"""Registers picture files, in order, with a reference on this machine: for the command line. Fetches nothing.

Where a picture is searched is `Places`: all land, around one place, or around what an index answers. A bad file does
not affect the others.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from retrieval.decoding.decoder import shared_decoder
from retrieval.encoders.preprocess import Preprocess
from retrieval.errors import DecodeMemoryError, DecoderError, PhotoError
from retrieval.index.manifest import Manifest
from retrieval.locator import Locator
from retrieval.pictures.limits import PhotoLimits, View
from retrieval.pictures.photo import Photo
from retrieval.pipeline import locate, prepared, views_for
from retrieval.registration.canvases import EDGES_KM, CanvasCache
from retrieval.registration.reference import BuiltinEarth, Reference
from retrieval.registration.registration import Candidate, Hints, Registration, register, register_anywhere
from retrieval.registration.tiles import TileReference
from retrieval.search.deadline import Deadline
from retrieval.search.query import LocateQuery
from service.client.files import checked_bytes
from service.errors import DecoderEndedError, LocalFileError, NoReferenceError, OutOfMemoryError, problem_of
from tile_cache.bluemarble import BlueMarble
from tile_cache.open import open_source
from tile_cache.xyz import XyzSource

__all__ = ["Anywhere", "ByIndex", "Near", "Registered", "reference_of", "register_files"]

_SIDE = 512
_SQUARE = View(_SIDE, Preprocess(_SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
"""The central square is all that is compared; so a large picture never exists in memory as a whole."""
_ALTERNATIVES = 20
_LEAST_CONFIDENCE = 1e-6
_REACH = 1.12
"""How far a footprint may be from a scale that is searched."""


@dataclass(frozen=True, eq=False)
class Registered:
    """The outcome for one file.

    A registration, the problem document of a file that cannot be read, or in `untried` why nothing was compared.
    """

    path: Path
    registration: Registration | None = None
    problem: dict[str, Any] | None = None
    untried: str | None = None

    def to_json(self) -> dict[str, Any]:
        """`{"registration": ...}` as in the HTTP contract, null with a `reason`, or `{"error": problem}`."""
        if self.problem is not None:
            return {"error": self.problem}
        if self.registration is None:
            return {"registration": None, "reason": self.untried}
        return {"registration": self.registration.to_json()}


class Places(Protocol):
    """Where to search."""

    def views(self) -> tuple[View, ...]:
        """The views of a picture that `registered` takes beside the central square."""
        ...

    def registered(self, square: Any, photo: Photo, cache: CanvasCache, hints: Hints, seconds: float) -> Registration:
        """Register a square, (s, s, 3) uint8, of a photo with these views, within so many seconds."""
        ...


class Anywhere:
    """All land of the built-in Earth."""

    def __init__(self, earth: BuiltinEarth) -> None:
        self._earth = earth

    def views(self) -> tuple[View, ...]:
        """None."""
        return ()

    def registered(self, square: Any, photo: Photo, cache: CanvasCache, hints: Hints, seconds: float) -> Registration:
        """Search everywhere."""
        return register_anywhere(square, self._earth.has_ground, cache, hints, deadline=Deadline.after(seconds))


class Near:
    """Around one place: degrees and km."""

    def __init__(self, lat: float, lng: float, km: float) -> None:
        self._candidates = [Candidate(lng, lat, km=km)]

    def views(self) -> tuple[View, ...]:
        """None."""
        return ()

    def registered(self, square: Any, photo: Photo, cache: CanvasCache, hints: Hints, seconds: float) -> Registration:
        """Search around the place."""
        return register(square, self._candidates, cache, hints, deadline=Deadline.after(seconds))


class ByIndex:
    """Around an index's answer and its alternatives. The index is opened for the first picture."""

    def __init__(self, open_index: Callable[[], Locator]) -> None:
        self._open = open_index
        self._locator: Locator | None = None

    def views(self) -> tuple[View, ...]:
        """Those of the index's encoders."""
        return views_for(self._opened(), self._opened().plan(LocateQuery(alternatives=_ALTERNATIVES)))

    def registered(self, square: Any, photo: Photo, cache: CanvasCache, hints: Hints, seconds: float) -> Registration:
        """Locate the picture as it lies, then search around the answer. Raises QueryError and what encoders raise."""
        deadline, locator = Deadline.after(seconds), self._opened()
        plan = locator.plan(LocateQuery(alternatives=_ALTERNATIVES))
        [answer] = locate([prepared(locator, plan, photo, time.perf_counter())])
        if isinstance(answer, Exception):
            raise answer
        candidates = [
            Candidate(place["lon"], place["lat"], math.log(max(place["confidence"], _LEAST_CONFIDENCE)))
            for place in (answer, *answer["alternatives"])
        ]
        return register(square, candidates, cache, hints, deadline=deadline)

    def _opened(self) -> Locator:
        self._locator = self._locator or self._open()
        return self._locator


def reference_of(index: Path | None, source: str | None) -> Reference:
    """What pictures are compared with: the index's own source, `source`, or the built-in Earth.

    Raises NoReferenceError, the IndexFormatErrors, SourceError and StoreError.
    """
    manifest = None if index is None else Manifest.read(index)
    if source is None:
        if manifest is None or manifest.source["identity"].startswith("bluemarble"):
            return BuiltinEarth()
        raise NoReferenceError(
            f"{index} was built from {manifest.source.get('name', 'a source')}, which is not at hand: give the same "
            "folder or .mbtiles file as --source"
        )
    opened = open_source(source)
    if isinstance(opened, XyzSource):
        raise NoReferenceError(f"{source} is on a server, and nothing is fetched here: give a folder or .mbtiles file")
    if manifest is not None and opened.info.identity not in manifest.source["identity"].split(" + "):
        raise NoReferenceError(
            f"{source} is not the source of {index} ({manifest.source.get('name', 'unknown')}): its identity differs; "
            "give the source that the index was built from"
        )
    if isinstance(opened, BlueMarble):
        return BuiltinEarth()
    info = opened.info
    zooms = None if manifest is None else [entry.zoom for entry in manifest.zooms]
    return TileReference(
        opened.read, info.identity, zooms or range(info.min_zoom, info.max_zoom + 1), tile_size=info.tile_size
    )


def register_files(
    photos: Sequence[Path], places: Places, reference: Reference, hints: Hints, seconds: float
) -> Iterator[Registered]:
    """Register each file within `seconds`; reading the reference is not counted. Raises what `places` raises."""
    limits, cache = PhotoLimits(), CanvasCache(reference)
    for path in photos:
        try:
            data = checked_bytes(path, limits.max_bytes + 1)
            photo = shared_decoder().read(data, limits, (*places.views(), _SQUARE))
        except (PhotoError, LocalFileError) as error:
            yield Registered(path, problem=problem_of(error))
        except DecoderError as error:
            kind = OutOfMemoryError if isinstance(error, DecodeMemoryError) else DecoderEndedError
            yield Registered(path, problem=problem_of(kind(str(error))))
        else:
            if isinstance(reference, BuiltinEarth):
                reference.load()
            yield Registered(path, _registered(photo, places, cache, hints, seconds))


def _registered(photo: Photo, places: Places, cache: CanvasCache, hints: Hints, seconds: float) -> Registration:
    size = photo.size[::-1] if photo.turn > 4 else photo.size
    if hints.width_km is not None:
        edge_km = hints.width_km * min(size) / size[0]  # of the square, which is what is compared
        low, high = EDGES_KM[0] / _REACH, EDGES_KM[-1] * _REACH
        if not low <= edge_km <= high:
            reason = f"the shorter edge would be {edge_km:,.0f} km, and {low:,.0f} to {high:,.0f} km can be searched"
            return Registration(size, reason=reason)
        hints = replace(hints, width_km=edge_km)
    registration = places.registered(np.asarray(photo.images[-1]), photo, cache, hints, seconds)
    return replace(registration, size=size, turn=photo.turn)
