"""Pictures to register, in styles that the reference lacks, with their true frames.

A style names what draws it and what is left of the reference for it: no raster is both the picture and the reference.
`tinted` and `sketch` share the coasts of GSHHS with the land mask only where `land` is set. Candidates stand in for
retrieval: one lies 150 km from the truth in the median, the others are random land.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from indexer.builtin.pictures import nowhere_pictures
from indexer.builtin.views import Centres, Views, draw_views
from indexer.sample_data import foreign
from indexer.sample_data.from_earth import drawn, mirrored, shuffled
from retrieval.registration.fields import Layer
from retrieval.registration.geometry import pixel_centres
from retrieval.registration.reference import BuiltinEarth, Reference
from retrieval.registration.registration import Candidate
from retrieval.sphere import EARTH_RADIUS_KM, degrees_of, great_circle_km, unit_vectors

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

SIZE = 256


@dataclass(frozen=True)
class Style:
    """How pictures are drawn, as (n, size, size, 3) uint8, and `products` and `land` that the reference has left."""

    draw: Callable[[Views, int, np.random.Generator], Pixels]
    products: tuple[str, ...]
    land: bool = True
    product: str | None = None  # the product itself, for tilted pictures


def product_style(product: str, others: tuple[str, ...]) -> Style:
    """A product as it is."""
    return Style(lambda views, size, rng: drawn(product, views, size), others, product=product)


STYLES = {
    "bmng": product_style("bmng", ("shadedrelief", "etopo1")),
    "relief": product_style("shadedrelief", ("bmng", "etopo1")),
    "etopo": product_style("etopo1", ("bmng", "shadedrelief")),
    "tinted": Style(foreign.tinted_heights, ("bmng", "shadedrelief"), land=False),
    "sketch": Style(foreign.sketch, ("bmng", "etopo1")),
    "cartoon": Style(foreign.cartoon, ("shadedrelief", "etopo1")),
}


@dataclass(frozen=True)
class PictureKind:
    """Footprints in km, turns and tilts in degrees. `searched_km`: the footprints that the search tries."""

    footprint_km: tuple[float, float] = (300.0, 1000.0)
    turn: float = 180.0
    tilt: tuple[float, float] | None = None
    removed: bool = False
    nowhere: bool = False
    searched_km: tuple[float, float] = (200.0, 1100.0)


KINDS = {
    "north-up": PictureKind(turn=10.0),
    "turned": PictureKind(),
    "wide": PictureKind((1000.0, 3000.0), searched_km=(900.0, 3000.0)),
    "narrow": PictureKind((120.0, 300.0), searched_km=(110.0, 330.0)),
    "oblique": PictureKind(tilt=(15.0, 40.0)),
    "removed": PictureKind(removed=True),
    "nowhere": PictureKind(nowhere=True),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A picture, (h, w, 3) uint8, its true place (None: there is none), and candidate places, best first."""

    pixels: Pixels
    lng: float
    lat: float
    edge_km: float
    heading: float
    candidates: tuple[Candidate, ...]
    has_place: bool


class Removed:
    """A reference whose ground around a place is that of a place a third of the Earth further east."""

    def __init__(self, reference: Reference, lng: float, lat: float, km: float) -> None:
        self._reference, self._place = reference, (np.float64(lng), np.float64(lat))
        self._km, self.identity = km, f"{reference.identity} without {lng:.4f} {lat:.4f}"

    def layers(self, lng: Floats, lat: Floats, pixel_km: float) -> Sequence[Layer]:
        """The reference's layers, elsewhere within the removed circle."""
        near = great_circle_km(lng, lat, *self._place) < self._km  # type: ignore[arg-type]
        return self._reference.layers(np.where(near, (lng + 300) % 360 - 180, lng), lat, pixel_km)


@lru_cache(maxsize=2)
def reference_of(style: str) -> BuiltinEarth:
    """The reference for a style's pictures."""
    return BuiltinEarth(STYLES[style].products, STYLES[style].land)


def cases(style: str, kind: str, count: int, seed: int, places: int) -> list[Case]:
    """Draw pictures, each with `places` candidates."""
    torch.set_num_threads(1)
    how = KINDS[kind]
    rng = np.random.default_rng([seed, list(STYLES).index(style), list(KINDS).index(kind)])
    centres = Centres(-60, 78, 8, 0.01)
    views = draw_views(centres, count, how.footprint_km, how.turn, rng)
    if how.nowhere:
        pixels = _nowhere(count, rng)
    elif how.tilt is not None:
        pixels = _tilted(STYLES[style].product or "shadedrelief", views, rng.uniform(*how.tilt, count), rng)
    else:
        pixels = STYLES[style].draw(views, SIZE, rng)
    drawn_cases = []
    for i in range(count):
        lng, lat = float(views.lng[i]), float(views.lat[i])
        away = rng.normal(0, 125 / 111.2, 2)
        near = Candidate(lng + away[0] / np.cos(np.radians(lat)), float(np.clip(lat + away[1], -89, 89)), -2.5)
        others = [Candidate(float(x), float(y), -3.0) for x, y in zip(*centres.draw(places - 1, rng), strict=True)]
        shown = [*others[:2], near, *others[2:]]
        edge, turn = float(views.footprint_km[i]), float(views.turn[i])
        drawn_cases.append(Case(pixels[i], lng, lat, edge, turn, tuple(shown), not (how.removed or how.nowhere)))
    return drawn_cases


def _nowhere(count: int, rng: np.random.Generator) -> Pixels:
    """A third each: patterns, patchworks of real views, mirrored views."""
    third = -(-count // 3)
    seed = int(rng.integers(2**31))
    parts = [nowhere_pictures(third, SIZE, seed), shuffled(rng, third, SIZE), mirrored(rng, third, SIZE)]
    return np.concatenate(parts)[:count]


def _tilted(product: str, views: Views, tilts: Floats, rng: np.random.Generator) -> Pixels:
    """Perspective pictures of a product, whose middle shows the views' centres."""
    earth = BuiltinEarth((product,), land=False)
    pictures = []
    for i, tilt in enumerate(tilts):
        edge = float(views.footprint_km[i])
        args = float(views.lng[i]), float(views.lat[i]), edge, float(views.turn[i])
        lng, lat = camera_ground(*args, float(tilt), edge * rng.uniform(1.5, 3.0))
        [(channels, _)] = earth.layers(lng, lat, edge / SIZE)
        pictures.append(np.clip(channels, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    return np.stack(pictures)


def camera_ground(
    lng: float, lat: float, edge_km: float, heading: float, tilt: float, distance_km: float
) -> tuple[Floats, Floats]:
    """Where the pixels of a camera lie on the sphere, in degrees, (SIZE, SIZE) each.

    It looks at (lng, lat) from `distance_km`, `tilt` degrees from the vertical there, with the view's top towards
    `heading`; at the middle, `edge_km` across fill the picture. Rays that miss the Earth end at its limb.
    """
    up = unit_vectors(np.array([lng]), np.array([lat]))[0]
    east = np.array([-np.sin(np.radians(lng)), np.cos(np.radians(lng)), 0.0])
    north = np.cross(up, east)
    turn, lean = np.radians(heading), np.radians(tilt)
    ahead, right = north * np.cos(turn) + east * np.sin(turn), east * np.cos(turn) - north * np.sin(turn)
    towards = up * np.cos(lean) - ahead * np.sin(lean)  # from the target to the camera, which looks ahead
    top = ahead * np.cos(lean) + up * np.sin(lean)
    eye = up * EARTH_RADIUS_KM + towards * distance_km
    u, v = (w[..., None] * edge_km for w in pixel_centres(SIZE))
    rays = right * u - top * v - towards * distance_km
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    along = -(rays @ eye)
    miss = np.maximum(along**2 - (eye @ eye - EARTH_RADIUS_KM**2), 0)
    points = eye + rays * (along - np.sqrt(miss))[..., None]
    return degrees_of(points)
