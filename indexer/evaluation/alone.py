"""A prior without the beam: its own answers, and the mass that it gives to the tiles that hold them."""

import time

import numpy as np

from indexer.evaluation.outcomes import OnPicture, Outcomes, Pictures, ZoomOutcomes
from retrieval.index.reader import TileIndex
from retrieval.priors.base import Belief
from retrieval.sphere import great_circle_km
from tile_cache.addressing import codes_at

__all__ = ["answers_alone"]


def answers_alone(index: TileIndex, pictures: Pictures, on_picture: OnPicture | None = None) -> Outcomes:
    """What the pictures' prior answers, at the zooms of an index. It gives no circles, and never says elsewhere.

    Time is that of the belief and its answer, encoding not counted. `best` and `kept` are as `right`.
    """
    known = pictures.known
    n = len(known)
    zooms = tuple(ZoomOutcomes.empty(zoom, n) for zoom in index.zooms)
    places, seconds, beliefs = np.empty((n, 2)), np.empty(n), known.beliefs(at_once=1)
    for i in range(n):
        begun = time.perf_counter()
        belief = next(beliefs)
        assert belief is not None
        places[i] = belief.best()
        seconds[i] = time.perf_counter() - begun
        for zoom in zooms:
            zoom.confidence[i] = _mass_at(belief, places[i], zoom.zoom)
        if on_picture is not None:
            on_picture(i + 1)
    lng, lat = places.T
    for zoom, rows in zip(zooms, pictures.rows, strict=True):
        _note(zoom, pictures, lng, lat)
        zoom.covered[:] = rows >= 0
    none = np.full(n, np.nan)
    deepest = index.zooms[-1]
    return Outcomes(
        lng=lng,
        lat=lat,
        km=great_circle_km(lng, lat, known.lng, known.lat),
        elsewhere=np.zeros(n),
        radius_50_km=none,
        radius_90_km=none,
        seconds=seconds,
        tiles=codes_at(lng, lat, deepest),
        depth=np.full(n, deepest, dtype=np.intp),
        calibrated=np.zeros(n, dtype=bool),
        zooms=zooms,
    )


def _mass_at(belief: Belief, place: np.ndarray, zoom: int) -> float:
    return float(np.exp(belief.log_mass(codes_at(place[:1], place[1:], zoom), zoom)[0]))


def _note(zoom: ZoomOutcomes, pictures: Pictures, lng: np.ndarray, lat: np.ndarray) -> None:
    truths, somewhere = pictures.known.codes(zoom.zoom)
    zoom.right[:] = zoom.best[:] = zoom.kept[:] = (codes_at(lng, lat, zoom.zoom) == truths) & somewhere
    zoom.reached[:] = True
