"""A descent's mass and places as a question wants them; inside a region, where the question says that the place is."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.search.answer_point import Place, paper_places, places
from retrieval.search.beam import Descent
from retrieval.search.points import Addresses, Centres, Support, addresses_of
from retrieval.search.query import LocateQuery
from retrieval.sphere import degrees_of, unit_vectors_of_sines

if TYPE_CHECKING:
    from retrieval.geo.region import Region

__all__ = ["confined", "places_of", "support_of"]

Floats = NDArray[np.float64]


def support_of(descent: Descent, query: LocateQuery) -> Support:
    """Where the mass lies."""
    support = Support.of(descent, query.bbox)
    return support if query.within is None else confined(support, descent, query.within)


def places_of(descent: Descent, support: Support, query: LocateQuery) -> Iterator[Place]:
    """The answer, then other places, by the query's scoring."""
    if query.scoring == "posterior":
        return places(descent, support, query.bbox, query.within)
    found, region = paper_places(descent, support, query.bbox), query.within
    return found if region is None else (_moved_inside(place, descent, region) for place in found)


def confined(support: Support, descent: Descent, region: "Region") -> Support:
    """The support with each tile's mass on those of its points that lie in the region, and its centre there too.

    A tile of which no point does has one where it meets the region. Lumps stay as they are.
    """
    where = addresses_of(descent, support.tiles)
    points = np.flatnonzero(support.owner >= 0)
    vectors, owner = support.vectors[points], support.owner[points]
    inside = region.contains(*degrees_of(vectors))
    vectors, owner = vectors[inside], owner[inside]
    bare = np.setdiff1d(np.arange(len(where.codes)), owner)
    vectors = np.concatenate([vectors, _met(bare, where, support.centres, region)])
    owner = np.concatenate([owner, bare])
    mass = support.tiles.mass[owner] / np.bincount(owner, minlength=len(where.codes))[owner]
    lumps = support.owner < 0
    return replace(
        support,
        centres=_centres(support.centres, vectors, owner, region),
        vectors=np.concatenate([vectors, support.vectors[lumps]]),
        mass=np.concatenate([mass, support.mass[lumps]]),
        owner=np.concatenate([owner, support.owner[lumps]]),
    )


def _moved_inside(place: Place, descent: Descent, region: "Region") -> Place:
    """The place, or if that lies outside, one in both its tile and the region."""
    if region.contains(np.array([place.lng]), np.array([place.lat]))[0]:
        return place
    step = descent.steps[len(place.path) - 1]
    code, zoom = int(step.level.codes[step.rows[place.path[-1]]]), step.level.zoom
    lng, lat = region.inside(code, zoom) or (place.lng, place.lat)
    vector = unit_vectors_of_sines(np.array([lng]), np.sin(np.radians([lat])))[0]
    return Place(lng, lat, vector, place.path)


def _met(tiles: NDArray[np.intp], where: Addresses, centres: Centres, region: "Region") -> Floats:
    """A point of each of these tiles that lies in the region, (b, 3); its centre if there is none."""
    found = [region.inside(int(where.codes[i]), int(where.zooms[i])) or (centres.lng[i], centres.lat[i]) for i in tiles]
    lng, lat = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return unit_vectors_of_sines(lng, np.sin(np.radians(lat)))


def _centres(centres: Centres, vectors: Floats, owner: NDArray[np.intp], region: "Region") -> Centres:
    """Centres that lie outside replaced by the nearest of their tiles' points, of which each tile has one."""
    order = np.lexsort((-np.einsum("pd,pd->p", vectors, centres.vectors[owner]), owner))
    nearest = vectors[order[np.searchsorted(owner[order], np.arange(len(centres.lng)))]]
    stay = region.contains(centres.lng, centres.lat)
    lng, lat = degrees_of(nearest)
    return Centres(
        np.where(stay, centres.lng, lng),
        np.where(stay, centres.lat, lat),
        np.where(stay[:, None], centres.vectors, nearest),
    )
