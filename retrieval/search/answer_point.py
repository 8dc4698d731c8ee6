"""From the frontier's mass to one place: the point of least expected error, its radii, and other places.

The error of an answer counts as min(distance, 2000 km), so a far mode pulls nothing. Every place lies in a frontier
tile, so that it has a tile at every zoom on the way. It knows nothing of encoders.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.search.beam import Descent, Frontier
from retrieval.search.points import Support, centres_of
from retrieval.search.query import BBox
from retrieval.sphere import EARTH_RADIUS_KM, degrees_of, distances_km
from tile_cache.addressing import codes_at

if TYPE_CHECKING:
    from retrieval.geo.region import Region

LOSS_CAP_KM = 2000.0
_CAP_CHORD = 2 * np.sin(LOSS_CAP_KM / EARTH_RADIUS_KM / 2)
_TILES_TRIED = 16
_REFINED = 8
_NEAREST_KM = 5.0
"""Weights of the local centres go with 1 / distance; nearer than this they stay the same."""
_NEGLIGIBLE = 1e-6
"""Less mass than this makes no alternative."""

Floats = NDArray[np.float64]


class Place(NamedTuple):
    """A point with its frontier tile: `path` gives positions in the descent's steps, coarse to fine."""

    lng: float
    lat: float
    vector: Floats  # (3,)
    path: tuple[int, ...]


class Taken(NamedTuple):
    """A circle around an earlier answer whose mass is spoken for."""

    place: Place
    radius_km: float


def radius_km(support: Support, mass: Floats, total: float, vector: Floats, share: float) -> float:
    """The smallest radius around a point that holds `share` of `total`; `mass`: (s,) of the support's points."""
    distances = distances_km(vector, support.vectors)
    order = np.argsort(distances)
    reached = int(np.searchsorted(np.cumsum(mass[order]), share * total))
    return float(distances[order[reached]]) if reached < len(order) else float(np.pi * EARTH_RADIUS_KM)


def radii_km(support: Support, elsewhere: float, place: Place, shares: Sequence[float]) -> list[float | None]:
    """Radii that hold these shares of what is not elsewhere; None where elsewhere is more than that mass."""
    if elsewhere > support.total:
        return [None] * len(shares)
    return [radius_km(support, support.mass, support.total, place.vector, share) for share in shares]


def places(descent: Descent, support: Support, bbox: BBox | None, region: "Region | None" = None) -> Iterator[Place]:
    """Places in order: the answer, then one after another with the mass near earlier ones removed.

    Ends when no mass worth naming is left. `support` is confined to the region, where there is one.
    """
    mass, taken = support.mass, list[Taken]()
    while mass.sum() > _NEGLIGIBLE * support.total or not taken:
        place = _best(descent, support, mass, taken, bbox, region)
        if place is None:
            return
        yield place
        taken.append(claim(support, mass, place))
        mass = without(support, mass, taken[-1])


def paper_places(descent: Descent, support: Support, bbox: BBox | None) -> Iterator[Place]:
    """Centres of the deepest candidates by similarity alone, as paper H answers; later ones outside earlier circles."""
    step = descent.steps[-1]
    order = np.lexsort((step.rows, -step.similarities))
    tiles = Frontier(np.full(len(order), len(descent.steps) - 1), order, np.exp(step.log_mass[order]))
    centres = centres_of(descent, tiles, bbox)
    free = np.ones(len(order), dtype=bool)
    while free.any():
        i = int(np.argmax(free))
        path = descent.path_to(len(descent.steps) - 1, int(order[i]))
        place = Place(float(centres.lng[i]), float(centres.lat[i]), centres.vectors[i], tuple(path))
        yield place
        free &= distances_km(place.vector, centres.vectors) >= claim(support, support.mass, place).radius_km


def claim(support: Support, mass: Floats, place: Place) -> Taken:
    """The circle that an answer takes for itself: its 50% radius, at least 25 and at most 500 km."""
    half = radius_km(support, mass, float(mass.sum()), place.vector, 0.5)
    return Taken(place, float(np.clip(half, 25, 500)))


def without(support: Support, mass: Floats, taken: Taken) -> Floats:
    """The mass, (s,), outside an earlier answer's circle and tile."""
    step, position = len(taken.place.path) - 1, taken.place.path[-1]
    tile = np.flatnonzero((support.tiles.steps == step) & (support.tiles.positions == position))
    gone = distances_km(taken.place.vector, support.vectors) < taken.radius_km
    return np.where(gone | np.isin(support.owner, tile), 0.0, mass)


def centre_of(descent: Descent, support: Support, tile: int) -> Place:
    """The centre of a tile of the support, moved into the bounding box."""
    path = descent.path_to(int(support.tiles.steps[tile]), int(support.tiles.positions[tile]))
    return Place(
        float(support.centres.lng[tile]), float(support.centres.lat[tile]), support.centres.vectors[tile], tuple(path)
    )


def _best(
    descent: Descent,
    support: Support,
    mass: Floats,
    taken: Sequence[Taken],
    bbox: BBox | None,
    region: "Region | None",
) -> Place | None:
    tiles = _heaviest(support, mass)
    centres = support.centres.vectors[tiles]
    arcs = _capped_km(centres, support.vectors)
    local = _pulled(arcs, support.vectors, mass)
    arcs_local = _capped_km(local, support.vectors)
    losses_local = arcs_local @ mass
    near = np.argsort(losses_local, kind="stable")[:_REFINED]
    refined = _pulled(arcs_local[near], support.vectors, mass)
    points = np.concatenate([centres, local, refined])
    losses = np.concatenate([arcs @ mass, losses_local, _capped_km(refined, support.vectors) @ mass])
    for i in np.argsort(losses, kind="stable"):
        if any(distances_km(t.place.vector, points[i : i + 1])[0] < t.radius_km for t in taken):
            continue
        place = (
            centre_of(descent, support, int(tiles[i])) if i < len(tiles) else _locate(descent, points[i], bbox, region)
        )
        if place is not None and all(place.path != t.place.path for t in taken):
            return place
    return None


def _heaviest(support: Support, mass: Floats) -> NDArray[np.intp]:
    """The tiles with most mass left, heaviest first."""
    points = len(mass) - int(np.count_nonzero(support.owner < 0))
    left = np.bincount(support.owner[:points], mass[:points], len(support.tiles.mass))
    order = np.argsort(-left, kind="stable")[:_TILES_TRIED]
    return order[left[order] > 0] if left[order[0]] > 0 else order


def _capped_km(points: Floats, vectors: Floats) -> Floats:
    """min(distance, LOSS_CAP_KM), (p, s), by the arc's series in the chord: within a metre below the cap."""
    squared = np.clip(2 - 2 * (points @ vectors.T), 0, _CAP_CHORD**2)
    return np.asarray(np.sqrt(squared) * (EARTH_RADIUS_KM + squared * (EARTH_RADIUS_KM / 24 * (1 + squared * 0.1125))))


def _pulled(arcs: Floats, vectors: Floats, mass: Floats) -> Floats:
    """Each point moved one step towards the median of the mass within the cap (Weiszfeld), (p, 3) unit vectors."""
    weights = np.where(arcs < LOSS_CAP_KM * 0.999, mass / np.maximum(arcs, _NEAREST_KM), 0)
    moved = weights @ vectors
    return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-300))


def _locate(descent: Descent, vector: Floats, bbox: BBox | None, region: "Region | None") -> Place | None:
    """The place at a point, or None where that is no frontier tile, or outside the bounding box or the region."""
    lng, lat = (float(v) for v in degrees_of(vector))
    if bbox is not None and not bbox.contains(lng, lat):
        return None
    if region is not None and not region.contains(np.array([lng]), np.array([lat]))[0]:
        return None
    deepest = descent.steps[-1].level.zoom
    path = descent.path_at(int(codes_at(np.array([lng]), np.array([lat]), deepest)[0]), deepest)
    return None if path is None else Place(lng, lat, vector, tuple(path))
