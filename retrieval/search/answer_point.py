"""From the frontier's mass to places: the point of least expected error, its radii, and the alternatives.

The error of a place is min(distance, 2000 km), so distant mass does not pull the answer towards it. Every place lies in
a frontier tile, so it has a tile at every zoom above. See "The answer's point and radii" in docs/method.md. This module
knows nothing of encoders.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.search.beam import Descent, Frontier
from retrieval.search.points import Support, centres_of
from retrieval.search.query import Constraint
from retrieval.sphere import EARTH_RADIUS_KM, degrees_of, distances_km, unit_vectors_of_sines
from tile_cache.addressing import codes_at

if TYPE_CHECKING:  # loads shapely, which queries without a region do not need
    from retrieval.geo.region import Region

LOSS_CAP_KM = 2000.0
_CAP_CHORD = 2 * np.sin(LOSS_CAP_KM / EARTH_RADIUS_KM / 2)
_TILES_TRIED = 16
_REFINED = 8
_NEAREST_KM = 5.0
"""A point's weight in the local median is 1 / distance; below this distance it stays constant."""
_NEGLIGIBLE = 1e-6
"""No alternative is formed from less than this share of the mass."""

Floats = NDArray[np.float64]


class Place(NamedTuple):
    """A point and its frontier tile; `path`: the tile and its ancestors as positions in the steps, coarse to fine."""

    lng: float
    lat: float
    vector: Floats  # (3,)
    path: tuple[int, ...]


class Taken(NamedTuple):
    """A place that was already returned, and the radius around it that later places must stay out of."""

    place: Place
    radius_km: float


def radius_km(support: Support, mass: Floats, total: float, vector: Floats, share: float) -> float:
    """The smallest radius around a point, (3,), that holds `share` of `total`; `mass`: (s,), of the points."""
    distances = distances_km(vector, support.vectors)
    order = np.argsort(distances)
    reached = int(np.searchsorted(np.cumsum(mass[order]), share * total))
    return float(distances[order[reached]]) if reached < len(order) else float(np.pi * EARTH_RADIUS_KM)


def radii_km(support: Support, elsewhere: float, place: Place, shares: Sequence[float]) -> list[float | None]:
    """Radii that hold these shares of the tiles' mass; None if elsewhere has more mass than all tiles."""
    if elsewhere > support.total:
        return [None] * len(shares)
    return [radius_km(support, support.mass, support.total, place.vector, share) for share in shares]


def places(descent: Descent, support: Support, constraint: Constraint | None) -> Iterator[Place]:
    """The answer, then the alternatives in order, each found after the mass near earlier places was removed.

    Ends when too little mass is left. `support` must have been made under the same constraint.
    """
    mass, taken = support.mass, list[Taken]()
    while mass.sum() > _NEGLIGIBLE * support.total or not taken:
        place = _best(descent, support, mass, taken, constraint)
        if place is None:
            return
        yield place
        taken.append(claim(support, mass, place))
        mass = without(support, mass, taken[-1])


def paper_places(descent: Descent, support: Support, constraint: Constraint | None) -> Iterator[Place]:
    """The answer of the hierarchical-search paper, then the alternatives: centres of the deepest candidates by
    similarity alone, each outside the circles of earlier ones.
    """
    bbox, region = (None, None) if constraint is None else (constraint.bbox, constraint.region)
    step = descent.steps[-1]
    order = np.lexsort((step.rows, -step.similarities))
    tiles = Frontier(np.full(len(order), len(descent.steps) - 1), order, np.exp(step.log_mass[order]))
    centres = centres_of(descent, tiles, bbox)
    free = np.ones(len(order), dtype=bool)
    while free.any():
        i = int(np.argmax(free))
        path = descent.path_to(len(descent.steps) - 1, int(order[i]))
        place = Place(float(centres.lng[i]), float(centres.lat[i]), centres.vectors[i], tuple(path))
        yield place if region is None else _moved_inside(place, descent, region)
        free &= distances_km(place.vector, centres.vectors) >= claim(support, support.mass, place).radius_km


def claim(support: Support, mass: Floats, place: Place) -> Taken:
    """The circle around a place that later places stay out of: its 50% radius, at least 25 and at most 500 km."""
    half = radius_km(support, mass, float(mass.sum()), place.vector, 0.5)
    return Taken(place, float(np.clip(half, 25, 500)))


def without(support: Support, mass: Floats, taken: Taken) -> Floats:
    """The mass, (s,), with that in an earlier place's circle and tile set to 0."""
    step, position = len(taken.place.path) - 1, taken.place.path[-1]
    tile = np.flatnonzero((support.tiles.steps == step) & (support.tiles.positions == position))
    inside = distances_km(taken.place.vector, support.vectors) < taken.radius_km
    return np.where(inside | np.isin(support.owner, tile), 0.0, mass)


def centre_of(descent: Descent, support: Support, tile: int) -> Place:
    """The centre of a tile of the support, which lies inside the constraint."""
    path = descent.path_to(int(support.tiles.steps[tile]), int(support.tiles.positions[tile]))
    return Place(
        float(support.centres.lng[tile]), float(support.centres.lat[tile]), support.centres.vectors[tile], tuple(path)
    )


def _best(
    descent: Descent,
    support: Support,
    mass: Floats,
    taken: Sequence[Taken],
    constraint: Constraint | None,
) -> Place | None:
    """The place of least expected error outside all circles of earlier places.

    Candidates are the heaviest tiles' centres, and those points after one and two steps towards the local median.
    """
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
        if i < len(tiles):
            place: Place | None = centre_of(descent, support, int(tiles[i]))
        else:
            place = _place_at(descent, points[i], constraint)
        if place is not None and all(place.path != t.place.path for t in taken):
            return place
    return None


def _heaviest(support: Support, mass: Floats) -> NDArray[np.intp]:
    """The tiles with the most mass left, heaviest first."""
    points = len(mass) - int(np.count_nonzero(support.owner < 0))
    left = np.bincount(support.owner[:points], mass[:points], len(support.tiles.mass))
    order = np.argsort(-left, kind="stable")[:_TILES_TRIED]
    return order[left[order] > 0] if left[order[0]] > 0 else order


def _capped_km(points: Floats, vectors: Floats) -> Floats:
    """min(distance, LOSS_CAP_KM), (p, s), by a series of the arc in the chord; exact to a metre below the cap."""
    squared = np.clip(2 - 2 * (points @ vectors.T), 0, _CAP_CHORD**2)
    return np.asarray(np.sqrt(squared) * (EARTH_RADIUS_KM + squared * (EARTH_RADIUS_KM / 24 * (1 + squared * 0.1125))))


def _pulled(arcs: Floats, vectors: Floats, mass: Floats) -> Floats:
    """Each point moved one Weiszfeld step towards the median of the mass within the cap, (p, 3) unit vectors."""
    weights = np.where(arcs < LOSS_CAP_KM * 0.999, mass / np.maximum(arcs, _NEAREST_KM), 0)
    moved = weights @ vectors
    return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-300))


def _place_at(descent: Descent, vector: Floats, constraint: Constraint | None) -> Place | None:
    """The place at a point; None if no frontier tile holds the point, or if it violates the constraint."""
    lng, lat = (float(v) for v in degrees_of(vector))
    if constraint is not None:
        if constraint.bbox is not None and not constraint.bbox.contains(lng, lat):
            return None
        if constraint.region is not None and not constraint.region.contains(np.array([lng]), np.array([lat]))[0]:
            return None
    deepest = descent.steps[-1].level.zoom
    path = descent.path_at(int(codes_at(np.array([lng]), np.array([lat]), deepest)[0]), deepest)
    return None if path is None else Place(lng, lat, vector, tuple(path))


def _moved_inside(place: Place, descent: Descent, region: "Region") -> Place:
    """The place if it lies in the region, else a point in both its tile and the region."""
    if region.contains(np.array([place.lng]), np.array([place.lat]))[0]:
        return place
    step = descent.steps[len(place.path) - 1]
    code, zoom = int(step.level.codes[step.rows[place.path[-1]]]), step.level.zoom
    lng, lat = region.inside(code, zoom) or (place.lng, place.lat)
    vector = unit_vectors_of_sines(np.array([lng]), np.sin(np.radians([lat])))[0]
    return Place(lng, lat, vector, place.path)
