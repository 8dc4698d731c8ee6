"""The frontier's mass as weighted points on the sphere, few enough for arithmetic on every query.

The heaviest tiles become several points each, spread over their area; the others are merged into lumps. With a region,
only points inside it are used. Positions are unit vectors, distances are great-circle kilometres. This module knows
nothing of similarities.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.search.beam import Descent, Frontier
from retrieval.search.deadline import NO_DEADLINE, Deadline
from retrieval.search.query import BBox, Constraint
from retrieval.sphere import degrees_of, unit_vectors_of_sines
from tile_cache.addressing import latitudes, longitudes, morton_decode, sines

if TYPE_CHECKING:  # loads shapely, which queries without a region do not need
    from retrieval.geo.region import Region

MAX_TILES = 384
_EVEN_POINTS = 4096
"""Points of mass that is spread evenly, about."""
UNREACHED = 0.001
"""Share of the mass that may be left out with the lightest tiles; radii treat it as farther away than all points."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


class Addresses(NamedTuple):
    """Tiles of different zooms, (n,) each; x and y are floats for arithmetic."""

    codes: NDArray[np.uint64]
    zooms: Ints
    x: Floats
    y: Floats


class Rectangles(NamedTuple):
    """Tiles clipped to the bounding box, if there is one: (n,) longitudes in degrees and sines of latitudes."""

    west: Floats
    east: Floats
    bottom: Floats
    top: Floats


class Centres(NamedTuple):
    """Tile centres in Mercator, moved into the bounding box if there is one: (n,) degrees, and (n, 3) unit vectors."""

    lng: Floats
    lat: Floats
    vectors: Floats


@dataclass(frozen=True)
class Support:
    """The mass of one descent's frontier: (n,) tiles, heaviest first, and (s,) points."""

    tiles: Frontier  # (n,)
    centres: Centres  # (n,), of the tiles
    vectors: Floats  # (s, 3)
    mass: Floats  # (s,)
    owner: Ints  # (s,): the tile that each point belongs to, -1 for lumps
    total: float  # all mass that is not elsewhere, including the mass that no point has

    @classmethod
    def of(cls, descent: Descent, constraint: Constraint | None, deadline: Deadline = NO_DEADLINE) -> "Support":
        """Take the heaviest tiles, spread each over points, and merge the other tiles into lumps if they matter."""
        frontier = descent.frontier()
        bbox = None if constraint is None else constraint.bbox
        total = float(frontier.mass.sum())
        heavy, light = _split(frontier.mass, total)
        tiles = frontier.take(heavy)
        addresses = addresses_of(descent, tiles)
        vectors, mass, owner = _spread(_rectangles(addresses, bbox), tiles.mass)
        if len(light):
            lumps, weights = _lump(descent, frontier.take(light), bbox)
            vectors, mass = np.concatenate([vectors, lumps]), np.concatenate([mass, weights])
            owner = np.concatenate([owner, np.full(len(lumps), -1)])
        support = cls(tiles, _centres(addresses, bbox), vectors, mass, owner, total)
        if constraint is None or constraint.region is None:
            return support
        return _inside(support, addresses, constraint.region, deadline)


def centres_of(descent: Descent, tiles: Frontier, bbox: BBox | None) -> Centres:
    """The centres of frontier tiles, moved into the bounding box if there is one."""
    return _centres(addresses_of(descent, tiles), bbox)


class Even(NamedTuple):
    """Mass 1 spread evenly over the first level of a descent: shares of its c candidates, and points with mass."""

    shares: Floats  # (c,)
    vectors: Floats  # (s, 3)
    mass: Floats  # (s,)


def spread_evenly(descent: Descent, constraint: Constraint | None) -> Even:
    """By area on the sphere, of the part inside the bounding box if there is one; of points, those in the region."""
    step = descent.steps[0]
    tiles = Frontier(np.zeros(len(step.rows), dtype=np.intp), np.arange(len(step.rows)), np.ones(len(step.rows)))
    shape = _rectangles(addresses_of(descent, tiles), None if constraint is None else constraint.bbox)
    area = (shape.east - shape.west) * (shape.top - shape.bottom)
    shares = area / area.sum()
    count = int(np.clip(_EVEN_POINTS // len(shares), 1, 64))
    owner = np.arange(len(shares)).repeat(count)
    number = np.tile(np.arange(count), len(shares))
    lng = (shape.east - shape.west)[owner] * ((number + 0.5) / count) + shape.west[owner]
    sine = (shape.top - shape.bottom)[owner] * (_mirrored(number) + 0.5 / count) + shape.bottom[owner]
    vectors, mass = unit_vectors_of_sines(lng, np.clip(sine, -1, 1)), shares[owner] / count
    if constraint is not None and constraint.region is not None:
        inside = constraint.region.contains(*degrees_of(vectors))
        if inside.any():
            vectors, mass = vectors[inside], mass[inside] / mass[inside].sum()
    return Even(shares, vectors, mass)


def _split(mass: Floats, total: float) -> tuple[Ints, Ints]:
    """The heaviest tiles, heaviest first, and the tiles to lump: none if the rest holds less than UNREACHED."""
    all_fit = len(mass) <= MAX_TILES
    heavy = np.arange(len(mass)) if all_fit else np.argpartition(-mass, MAX_TILES)[:MAX_TILES]
    heavy = heavy[np.lexsort((heavy, -mass[heavy]))]
    reached = np.cumsum(mass[heavy])
    enough = int(np.searchsorted(reached, (1 - UNREACHED) * total)) + 1
    if enough <= len(heavy):
        return heavy[:enough], heavy[:0]
    return heavy, np.delete(np.arange(len(mass)), heavy)


def addresses_of(descent: Descent, tiles: Frontier) -> Addresses:
    """Codes and zooms of frontier tiles."""
    codes = np.empty(len(tiles.mass), dtype=np.uint64)
    zooms = np.empty(len(tiles.mass), dtype=np.intp)
    for i, step in enumerate(descent.steps):
        of_step = np.flatnonzero(tiles.steps == i)
        codes[of_step] = step.level.codes[step.rows[tiles.positions[of_step]]]
        zooms[of_step] = step.level.zoom
    x, y = morton_decode(codes)
    return Addresses(codes, zooms, x.astype(np.float64), y.astype(np.float64))


def _centres(addresses: Addresses, bbox: BBox | None) -> Centres:
    lng, lat = longitudes(addresses.x + 0.5, addresses.zooms), latitudes(addresses.y + 0.5, addresses.zooms)
    if bbox is not None:
        shape = _rectangles(addresses, bbox)
        lng, lat = np.clip(lng, shape.west, shape.east), np.clip(lat, bbox.south, bbox.north)
    return Centres(lng, lat, unit_vectors_of_sines(lng, np.sin(np.radians(lat))))


def _rectangles(addresses: Addresses, bbox: BBox | None) -> Rectangles:
    width = np.ldexp(360.0, -addresses.zooms)
    west = addresses.x * width - 180
    bottom, top = sines(addresses.y + 1, addresses.zooms), sines(addresses.y, addresses.zooms)
    shape = Rectangles(west, west + width, bottom, top)
    return shape if bbox is None else _cut(shape, bbox)


def _cut(shape: Rectangles, bbox: BBox) -> Rectangles:
    low, high = np.sin(np.radians(bbox.south)), np.sin(np.radians(bbox.north))
    bottom, top = np.clip(shape.bottom, low, high), np.clip(shape.top, low, high)
    first, *others = (tuple(np.clip((shape.west, shape.east), *span)) for span in bbox.spans())
    west, east = first
    for w, e in others:  # of a tile on both sides of the date line, the wider side counts
        wider = e - w > east - west
        west, east = np.where(wider, w, west), np.where(wider, e, east)
    return Rectangles(west, east, bottom, top)


def _sub_points() -> tuple[Ints, Floats, Floats, Floats]:
    """Points of MAX_TILES tiles, heaviest first: owner, position in the tile (0 to 1, twice), share of its mass.

    A tile's points are a Hammersley set: as even as a grid, but at different distances from the centre. Points of a
    grid would lie at equal distances, and radii would jump by an eighth of the tile's mass.
    """
    counts = np.full(MAX_TILES, 1)
    counts[:96], counts[:24], counts[:6] = 4, 16, 64
    owner = np.arange(MAX_TILES).repeat(counts)
    number = np.concatenate([np.arange(n) for n in counts])
    return owner, (number + 0.5) / counts[owner], _mirrored(number) + 0.5 / counts[owner], 1.0 / counts[owner]


def _mirrored(number: Ints) -> Floats:
    """The binary digits of numbers below 64 behind the point, in reverse order (van der Corput)."""
    return np.asarray(sum((number >> bit & 1) / 2.0 ** (bit + 1) for bit in range(6)))


_OWNER, _ACROSS, _UP, _SHARE = _sub_points()


def _spread(shape: Rectangles, mass: Floats) -> tuple[Floats, Floats, Ints]:
    """Points spread evenly over each tile's area: evenly in longitude and in the sine of latitude."""
    n = int(np.searchsorted(_OWNER, len(mass)))
    owner = _OWNER[:n]
    lng = (shape.east - shape.west)[owner] * _ACROSS[:n] + shape.west[owner]
    sine = (shape.top - shape.bottom)[owner] * _UP[:n] + shape.bottom[owner]
    return unit_vectors_of_sines(lng, sine), mass[owner] * _SHARE[:n], owner


def _lump(descent: Descent, tiles: Frontier, bbox: BBox | None) -> tuple[Floats, Floats]:
    """Light tiles merged into one point per ancestor at the first zoom, at their centre of mass."""
    addresses = addresses_of(descent, tiles)
    vectors = _centres(addresses, bbox).vectors
    steps_up = 2 * (addresses.zooms - descent.steps[0].level.zoom)
    _, group = np.unique(addresses.codes >> steps_up.astype(np.uint64), return_inverse=True)
    mass = np.asarray(np.bincount(group, tiles.mass), dtype=np.float64)
    sums = np.stack([np.bincount(group, tiles.mass * vectors[:, i]) for i in range(3)], axis=1)
    # A lump whose mass underflowed to 0 has no direction; any direction will do.
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    lumps: Floats = np.where(norms > 0, sums / np.maximum(norms, 1e-300), vectors[0])
    return lumps, mass


def _inside(support: Support, addresses: Addresses, region: "Region", deadline: Deadline) -> Support:
    """The support with the mass of each tile on those of its points that lie in the region; lumps stay as they are.

    A tile without such a point gets one where it meets the region. Centres outside move to the nearest point inside.
    """
    points = np.flatnonzero(support.owner >= 0)
    vectors, owner = support.vectors[points], support.owner[points]
    inside = region.contains(*degrees_of(vectors))
    vectors, owner = vectors[inside], owner[inside]
    bare = np.setdiff1d(np.arange(len(addresses.codes)), owner)
    vectors = np.concatenate([vectors, _points_in(bare, addresses, support.centres, region, deadline)])
    owner = np.concatenate([owner, bare])
    mass = support.tiles.mass[owner] / np.bincount(owner, minlength=len(addresses.codes))[owner]
    lumps = support.owner < 0
    return replace(
        support,
        centres=_centres_in(support.centres, vectors, owner, region),
        vectors=np.concatenate([vectors, support.vectors[lumps]]),
        mass=np.concatenate([mass, support.mass[lumps]]),
        owner=np.concatenate([owner, support.owner[lumps]]),
    )


def _points_in(tiles: Ints, addresses: Addresses, centres: Centres, region: "Region", deadline: Deadline) -> Floats:
    """A point in both each of these tiles and the region, (b, 3); the tile's centre if there is none."""
    points = []
    for i in tiles:
        deadline.check()
        point = region.inside(int(addresses.codes[i]), int(addresses.zooms[i]))
        points.append(point or (centres.lng[i], centres.lat[i]))
    lng, lat = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return unit_vectors_of_sines(lng, np.sin(np.radians(lat)))


def _centres_in(centres: Centres, vectors: Floats, owner: Ints, region: "Region") -> Centres:
    """Centres, each one outside the region replaced by the nearest of its tile's points; each tile has at least one."""
    order = np.lexsort((-np.einsum("pd,pd->p", vectors, centres.vectors[owner]), owner))
    nearest = vectors[order[np.searchsorted(owner[order], np.arange(len(centres.lng)))]]
    stay = region.contains(centres.lng, centres.lat)
    lng, lat = degrees_of(nearest)
    return Centres(
        np.where(stay, centres.lng, lng),
        np.where(stay, centres.lat, lat),
        np.where(stay[:, None], centres.vectors, nearest),
    )
