"""The frontier as points on the sphere: where the posterior's mass lies, small enough to reckon with per query.

The heaviest tiles are spread over grids of sub-points, so that a tile is not mistaken for its centre; the rest is kept
in lumps. Positions are unit vectors, distances kilometres on a sphere. It knows nothing of similarities.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.search.beam import Descent, Frontier
from retrieval.search.query import BBox
from retrieval.sphere import unit_vectors_of_sines
from tile_cache.addressing import latitudes, longitudes, morton_decode, sines

MAX_TILES = 384
UNREACHED = 0.001
"""The lightest tiles may be left out up to this share of the mass; radii count it as lying beyond them."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


class Addresses(NamedTuple):
    """Tiles of different zooms, (n,) each; x and y as floats, ready for arithmetic."""

    codes: NDArray[np.uint64]
    zooms: Ints
    x: Floats
    y: Floats


class Rectangles(NamedTuple):
    """Tiles, cut to the bounding box where there is one: (n,) degrees and sines of latitudes."""

    west: Floats
    east: Floats
    bottom: Floats
    top: Floats


class Centres(NamedTuple):
    """Tile centres by paper H's formula, moved into the bounding box where there is one: degrees, and (n, 3)."""

    lng: Floats
    lat: Floats
    vectors: Floats


@dataclass(frozen=True)
class Support:
    """The mass of one descent's frontier. Tiles are the heaviest first; (s,) arrays describe the points."""

    tiles: Frontier  # (n,) heaviest first
    centres: Centres  # the tiles', (n,)
    vectors: Floats  # (s, 3)
    mass: Floats  # (s,)
    owner: Ints  # (s,): the tile each point belongs to, -1 for lumps
    total: float  # all mass that is not elsewhere, what the points leave out included

    @classmethod
    def of(cls, descent: Descent, bbox: BBox | None) -> "Support":
        """Gather the heaviest tiles, spread them, and lump what is left if it counts."""
        frontier = descent.frontier()
        total = float(frontier.mass.sum())
        heavy, light = _split(frontier.mass, total)
        tiles = frontier.take(heavy)
        where = addresses_of(descent, tiles)
        vectors, mass, owner = _spread(_rectangles(where, bbox), tiles.mass)
        if len(light):
            lumps, weights = _lump(descent, frontier.take(light), bbox)
            vectors, mass = np.concatenate([vectors, lumps]), np.concatenate([mass, weights])
            owner = np.concatenate([owner, np.full(len(lumps), -1)])
        return cls(tiles, _centres(where, bbox), vectors, mass, owner, total)


def centres_of(descent: Descent, tiles: Frontier, bbox: BBox | None) -> Centres:
    """The centres of frontier tiles."""
    return _centres(addresses_of(descent, tiles), bbox)


def _split(mass: Floats, total: float) -> tuple[Ints, Ints]:
    """The heaviest tiles, heaviest first, and those that must be lumped as they hold more than UNREACHED together."""
    few = len(mass) <= MAX_TILES
    heavy = np.arange(len(mass)) if few else np.argpartition(-mass, MAX_TILES)[:MAX_TILES]
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
        here = np.flatnonzero(tiles.steps == i)
        codes[here] = step.level.codes[step.rows[tiles.positions[here]]]
        zooms[here] = step.level.zoom
    x, y = morton_decode(codes)
    return Addresses(codes, zooms, x.astype(np.float64), y.astype(np.float64))


def _centres(where: Addresses, bbox: BBox | None) -> Centres:
    lng, lat = longitudes(where.x + 0.5, where.zooms), latitudes(where.y + 0.5, where.zooms)
    if bbox is not None:
        shape = _rectangles(where, bbox)
        lng, lat = np.clip(lng, shape.west, shape.east), np.clip(lat, bbox.south, bbox.north)
    return Centres(lng, lat, unit_vectors_of_sines(lng, np.sin(np.radians(lat))))


def _rectangles(where: Addresses, bbox: BBox | None) -> Rectangles:
    width = np.ldexp(360.0, -where.zooms)
    west = where.x * width - 180
    bottom, top = sines(where.y + 1, where.zooms), sines(where.y, where.zooms)
    shape = Rectangles(west, west + width, bottom, top)
    return shape if bbox is None else _cut(shape, bbox)


def _cut(shape: Rectangles, bbox: BBox) -> Rectangles:
    low, high = np.sin(np.radians(bbox.south)), np.sin(np.radians(bbox.north))
    bottom, top = np.clip(shape.bottom, low, high), np.clip(shape.top, low, high)
    first, *others = (tuple(np.clip((shape.west, shape.east), *span)) for span in bbox.spans())
    west, east = first
    for w, e in others:  # a tile so wide that it meets both sides of the date line counts where it has more
        there = e - w > east - west
        west, east = np.where(there, w, west), np.where(there, e, east)
    return Rectangles(west, east, bottom, top)


def _sub_points() -> tuple[Ints, Floats, Floats, Floats]:
    """Sub-points of MAX_TILES tiles in order of mass: whose, where in the tile (0 to 1), and their part of its mass.

    A tile's points are Hammersley's: as even as a grid, but not at equal distances from its centre, where a radius
    would jump by an eighth of the tile's mass.
    """
    counts = np.full(MAX_TILES, 1)
    counts[:96], counts[:24], counts[:6] = 4, 16, 64
    owner = np.arange(MAX_TILES).repeat(counts)
    number = np.concatenate([np.arange(n) for n in counts])
    mirrored = sum((number >> bit & 1) / 2.0 ** (bit + 1) for bit in range(6))
    return owner, (number + 0.5) / counts[owner], mirrored + 0.5 / counts[owner], 1.0 / counts[owner]


_OWNER, _ACROSS, _UP, _PART = _sub_points()


def _spread(shape: Rectangles, mass: Floats) -> tuple[Floats, Floats, Ints]:
    """Points spread evenly over each tile's area: even in longitude and in the sine of latitude."""
    n = int(np.searchsorted(_OWNER, len(mass)))
    owner = _OWNER[:n]
    lng = (shape.east - shape.west)[owner] * _ACROSS[:n] + shape.west[owner]
    sine = (shape.top - shape.bottom)[owner] * _UP[:n] + shape.bottom[owner]
    return unit_vectors_of_sines(lng, sine), mass[owner] * _PART[:n], owner


def _lump(descent: Descent, tiles: Frontier, bbox: BBox | None) -> tuple[Floats, Floats]:
    """Many light tiles as one point for each tile of the first zoom above them: their centre of mass."""
    where = addresses_of(descent, tiles)
    vectors = _centres(where, bbox).vectors
    steps_up = 2 * (where.zooms - descent.steps[0].level.zoom)
    _, group = np.unique(where.codes >> steps_up.astype(np.uint64), return_inverse=True)
    mass = np.asarray(np.bincount(group, tiles.mass), dtype=np.float64)
    sums = np.stack([np.bincount(group, tiles.mass * vectors[:, i]) for i in range(3)], axis=1)
    # A lump of no mass at all (underflow) has no direction; it keeps a harmless one.
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    lumps: Floats = np.where(norms > 0, sums / np.maximum(norms, 1e-300), vectors[0])
    return lumps, mass
