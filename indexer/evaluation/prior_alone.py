"""A prior without the beam: its own answers, and the probability that it gives to their tiles."""

import time

import numpy as np

from indexer.evaluation.metrics import Floats
from indexer.evaluation.outcomes import OnPicture, Outcomes, Pictures, Rows, ZoomOutcomes
from retrieval.index.reader import TileIndex
from retrieval.search.own_answer import mass_at
from retrieval.sphere import great_circle_km
from tile_cache.addressing import codes_at

__all__ = ["answers_alone"]


def answers_alone(index: TileIndex, pictures: Pictures, on_picture: OnPicture | None = None) -> Outcomes:
    """The answers of the pictures' prior, at the zooms of an index.

    There are no circles, and `elsewhere` is 0. The time is that of the belief and its answer, without encoding. As
    nothing is searched, `best` and `in_beam` equal `right`.
    """
    known = pictures.known
    n = len(known)
    places, seconds, confidences = np.empty((n, 2)), np.empty(n), np.empty((len(index.zooms), n))
    beliefs = known.beliefs(batch=1)
    for i in range(n):
        start = time.perf_counter()
        belief = next(beliefs)
        assert belief is not None
        places[i] = place = belief.best()
        seconds[i] = time.perf_counter() - start
        confidences[:, i] = [mass_at(belief, place.lng, place.lat, zoom) for zoom in index.zooms]
        if on_picture is not None:
            on_picture(i + 1)
    lng, lat = places.T
    no_circle = np.full(n, np.nan)
    deepest = index.zooms[-1]
    zooms = zip(index.zooms, pictures.rows, confidences, strict=True)
    return Outcomes(
        lng=lng,
        lat=lat,
        km=great_circle_km(lng, lat, known.lng, known.lat),
        elsewhere=np.zeros(n),
        radius_50_km=no_circle,
        radius_90_km=no_circle,
        seconds=seconds,
        tiles=codes_at(lng, lat, deepest),
        depth=np.full(n, deepest, dtype=np.intp),
        calibrated=np.zeros(n, dtype=bool),
        zooms=tuple(_zoom_outcomes(zoom, pictures, rows, lng, lat, confidence) for zoom, rows, confidence in zooms),
    )


def _zoom_outcomes(
    zoom: int, pictures: Pictures, rows: Rows, lng: Floats, lat: Floats, confidence: Floats
) -> ZoomOutcomes:
    truths, has_place = pictures.known.codes(zoom)
    right = (codes_at(lng, lat, zoom) == truths) & has_place
    reached = np.ones(len(right), dtype=bool)
    return ZoomOutcomes(zoom, rows >= 0, best=right, in_beam=right, reached=reached, right=right, confidence=confidence)
