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

from retrieval.attempt import hints_for
from retrieval.decoding.decoder import shared_decoder
from retrieval.encoders.preprocess import Preprocess
from retrieval.errors import DecodeMemoryError, DecoderError, PhotoError
from retrieval.locator import Locator
from retrieval.pictures.limits import PhotoLimits, View
from retrieval.pictures.photo import Photo
from retrieval.pipeline import locate, prepared, views_for
from retrieval.registration.canvases import CanvasCache
from retrieval.registration.reference import BuiltinEarth, Reference
from retrieval.registration.registration import Candidate, Hints, Registration, register, register_anywhere
from retrieval.search.deadline import Deadline
from retrieval.search.query import LocateQuery
from service.client.files import checked_bytes
from service.errors import DecoderEndedError, LocalFileError, OutOfMemoryError, problem_of

__all__ = ["CANVAS_BYTES", "Anywhere", "ByIndex", "Near", "Registered", "register_files"]

_SIDE = 512
_SQUARE = View(_SIDE, Preprocess(_SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
"""The central square is all that is compared; so a large picture never exists in memory as a whole."""
CANVAS_BYTES = 450_000_000
"""All land at all scales takes 391 MB. With less, each picture would draw anew what the one before it has drawn."""
_ALTERNATIVES = 20
_LEAST_CONFIDENCE = 1e-6


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

    _QUERY = LocateQuery(alternatives=_ALTERNATIVES, register="off")  # what it finds is registered here

    def __init__(self, open_index: Callable[[], Locator]) -> None:
        self._open = open_index
        self._locator: Locator | None = None

    def views(self) -> tuple[View, ...]:
        """Those of the index's encoders."""
        return views_for(self._opened(), self._opened().plan(self._QUERY))

    def registered(self, square: Any, photo: Photo, cache: CanvasCache, hints: Hints, seconds: float) -> Registration:
        """Locate the picture as it lies, then search around the answer. Raises QueryError and what encoders raise."""
        deadline, locator = Deadline.after(seconds), self._opened()
        plan = locator.plan(self._QUERY)
        [answer] = locate([prepared(locator, plan, photo, time.perf_counter())])
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, dict)
        candidates = [
            Candidate(place["lon"], place["lat"], math.log(max(place["confidence"], _LEAST_CONFIDENCE)))
            for place in (answer, *answer["alternatives"])
        ]
        return register(square, candidates, cache, hints, deadline=deadline)

    def _opened(self) -> Locator:
        self._locator = self._locator or self._open()
        return self._locator


def register_files(
    photos: Sequence[Path], places: Places, reference: Reference, hints: Hints, seconds: float
) -> Iterator[Registered]:
    """Register each file within `seconds`; reading the reference is not counted. Raises what `places` raises."""
    limits, cache = PhotoLimits(), CanvasCache(reference, CANVAS_BYTES)
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
    of_square = hints_for(hints.width_km, hints.heading, size)
    if isinstance(of_square, str):
        return Registration(size, reason=of_square)
    registration = places.registered(np.asarray(photo.images[-1]), photo, cache, of_square, seconds)
    return replace(registration, size=size, turn=photo.turn)
