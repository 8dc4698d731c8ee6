"""Picture files to locate by the whole road: their sets, their true frames, and the references to compare them with.

A style's own product is left out of its reference, so that no raster is both picture and reference; only the set
`clean` is compared with all products, as its pictures are of the kind that the built-in index was made from. A
picture follows from the seed, the set, the style and its number, whatever else is drawn.
"""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.support.registration_sets import SIZE, STYLES, Removed, Style, camera_ground
from indexer.builtin.views import Centres, Views, draw_views
from indexer.sample_data import foreign, from_earth, patterns
from indexer.sample_data.collected import crops_of
from indexer.sample_data.writing import Pixels, jpeg, put
from retrieval.registration.canvases import Canvas, CanvasCache, Cell
from retrieval.registration.reference import BuiltinEarth
from retrieval.sphere import great_circle_km

__all__ = ["NOWHERE", "RENDITIONS", "SETS", "Drawn", "Emptied", "PictureSet", "drawn", "earth_of", "styles_of"]

QUALITY = 92

RENDITIONS = STYLES | {
    "engraving": Style(foreign.engraving, ("shadedrelief", "etopo1")),
    "false-colour": Style(foreign.false_colour, ("shadedrelief", "etopo1")),
    # Drawn from vectors of the coasts that the land mask comes from.
    "political": Style(foreign.political, ("bmng", "shadedrelief", "etopo1"), land=False),
    "two-tone": Style(foreign.two_tone, ("bmng", "shadedrelief", "etopo1"), land=False),
}
"""All styles. Those with a `product` are a product as it is; retrieval was trained on these, but on no other."""


@dataclass(frozen=True)
class PictureSet:
    """How a set is drawn: footprints in km, turns to either side and tilts in degrees.

    `removed`: the true place is missing from the reference. `whole`: the reference has all products.
    """

    footprint_km: tuple[float, float] = (300.0, 1000.0)
    turn: float = 10.0
    tilt: tuple[float, float] | None = None
    removed: bool = False
    whole: bool = False


SETS = {
    "north-up": PictureSet(),
    "turned": PictureSet(turn=180.0),
    "wide": PictureSet((1000.0, 3000.0)),
    "wide-turned": PictureSet((1000.0, 3000.0), turn=180.0),
    "narrow": PictureSet((120.0, 300.0)),
    "oblique": PictureSet(tilt=(15.0, 40.0)),
    "oblique-turned": PictureSet(tilt=(15.0, 40.0), turn=180.0),
    "clean": PictureSet((200.0, 1000.0), turn=15.0, whole=True),
    "removed": PictureSet(turn=180.0, removed=True),
    "nowhere": PictureSet(whole=True),
}
"""`nowhere` has the families of NOWHERE as its styles."""


def _photograph(name: str, rng: np.random.Generator) -> Pixels:
    """A crop of one of scikit-learn's two photographs, at random exposure: a flower, and a temple's roofs."""
    with Image.open(Path(str(resources.files("sklearn.datasets.images").joinpath(name)))) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    side = int(min(pixels.shape[:2]) * rng.uniform(0.5, 1))
    top, left = (int(rng.integers(n - side + 1)) for n in pixels.shape[:2])
    square = Image.fromarray(pixels[top : top + side, left : left + side]).resize((SIZE, SIZE))
    return np.asarray(np.clip(np.asarray(square) * rng.uniform(0.7, 1.2), 0, 255).astype(np.uint8))


NOWHERE = {
    "noise": lambda rng: patterns.noise(rng, SIZE),
    "gradients": lambda rng: patterns.gradients(rng, SIZE),
    "stripes": lambda rng: patterns.stripes(rng, SIZE),
    "discs": lambda rng: patterns.discs(rng, SIZE),
    "text": lambda rng: patterns.text(rng, SIZE),
    "banded-planets": lambda rng: patterns.banded_planets(rng, SIZE),
    "noise-clouds": lambda rng: patterns.noise_clouds(rng, SIZE),
    "mosaics": lambda rng: patterns.mosaics(rng, SIZE),
    "charts": lambda rng: patterns.charts(rng, SIZE),
    "cratered-bodies": lambda rng: patterns.cratered_bodies(rng, SIZE),
    "invented-lands": lambda rng: patterns.invented_lands(rng, SIZE),
    "people": lambda rng: crops_of("people")(rng, SIZE),
    "microscopy": lambda rng: crops_of("microscopy")(rng, SIZE),
    "textures": lambda rng: crops_of("textures")(rng, SIZE),
    "deep-space": lambda rng: crops_of("deep-space")(rng, SIZE),
    "objects": lambda rng: crops_of("objects")(rng, SIZE),
    "medical": lambda rng: crops_of("medical")(rng, SIZE),
    "moon": lambda rng: crops_of("moon")(rng, SIZE),
    "scans": lambda rng: crops_of("scans")(rng, SIZE),
    "flower": lambda rng: _photograph("flower.jpg", rng),
    "roofs": lambda rng: _photograph("china.jpg", rng),
    "shuffled": lambda rng: from_earth.shuffled(rng, 1, SIZE)[0],
    "mirrored": lambda rng: from_earth.mirrored(rng, 1, SIZE)[0],
}
"""Families of pictures of no place: drawings, crops of packages' sample pictures, patchworks and mirrored views."""


@dataclass(frozen=True)
class Drawn:
    """A picture file and the truth about it: degrees, km. `heading`: of its top; `lng`, `lat`: of its centre.

    Without a place (`has_place` false) the place means nothing; in the set `removed` it lies outside the reference.
    """

    set: str
    style: str
    seed: int
    number: int
    path: Path
    has_place: bool
    lng: float = 0.0
    lat: float = 0.0
    edge_km: float = 0.0
    heading: float = 0.0
    tilt: float = 0.0

    @property
    def data(self) -> bytes:
        """The file's bytes."""
        return self.path.read_bytes()


def styles_of(name: str) -> list[str]:
    """The styles that a set can have."""
    if name == "nowhere":
        return list(NOWHERE)
    as_they_are = SETS[name].tilt is not None or name == "clean"
    return [style for style in RENDITIONS if not as_they_are or RENDITIONS[style].product is not None]


def drawn(folder: Path, name: str, style: str, seed: int, count: int) -> Iterator[Drawn]:
    """The first `count` pictures of a set and style; files that are missing in `folder` are drawn."""
    for number in range(count):
        path = folder / f"{seed}" / name / style / f"{number:04d}.jpg"
        if not path.with_suffix(".json").exists():
            rng = np.random.default_rng([seed, zlib.crc32(name.encode()), zlib.crc32(style.encode()), number])
            pixels, truth = _picture(name, style, rng)
            put(path, jpeg(pixels, QUALITY))
            put(path.with_suffix(".json"), json.dumps(truth).encode())
        truth = json.loads(path.with_suffix(".json").read_text())
        yield Drawn(name, style, seed, number, path, has_place=name != "nowhere", **truth)


def earth_of(name: str, style: str) -> BuiltinEarth:
    """The reference for a set and style, without what the style was drawn from. Equal ones are one object."""
    if SETS[name].whole:
        return _earth(("bmng", "shadedrelief", "etopo1"), True)
    return _earth(RENDITIONS[style].products, RENDITIONS[style].land)


class Emptied(CanvasCache):
    """The canvases of a warm cache, save those that show ground within a circle, which show ground from elsewhere."""

    def __init__(self, whole: CanvasCache, lng: float, lat: float, km: float) -> None:
        super().__init__(Removed(whole.reference, lng, lat, km), 50_000_000)
        self._whole, self._place, self._km = whole, (np.float64(lng), np.float64(lat)), km

    def canvas(self, cell: Cell, px: int) -> Canvas:
        """From the warm cache where the canvas, with its corners 2.83 edges away, does not reach the circle."""
        return self._whole.canvas(cell, px) if self._is_far(cell) else super().canvas(cell, px)

    def field(self, cell: Cell, px: int) -> NDArray[np.int8]:
        """From the warm cache likewise."""
        return self._whole.field(cell, px) if self._is_far(cell) else super().field(cell, px)

    def _is_far(self, cell: Cell) -> bool:
        away = great_circle_km(np.float64(cell.lng), np.float64(cell.lat), *self._place)  # type: ignore[arg-type]
        return bool(away > self._km + 3 * cell.edge_km)


def _picture(name: str, style: str, rng: np.random.Generator) -> tuple[Pixels, dict[str, float]]:
    """A picture, (SIZE, SIZE, 3) uint8, and its frame; of no place: without a frame."""
    torch.set_num_threads(1)
    if name == "nowhere":
        return NOWHERE[style](rng), {}
    how, rendition = SETS[name], RENDITIONS[style]
    views = draw_views(_centres(), 1, how.footprint_km, how.turn, rng)
    place = {"lng": views.lng, "lat": views.lat, "edge_km": views.footprint_km, "heading": views.turn}
    truth = {key: float(value[0]) for key, value in place.items()}
    if how.tilt is None:
        return rendition.draw(views, SIZE, rng)[0], truth
    assert rendition.product is not None
    tilt = float(rng.uniform(*how.tilt))
    return _tilted(rendition.product, views, tilt, rng), truth | {"tilt": tilt}


def _tilted(product: str, views: Views, tilt: float, rng: np.random.Generator) -> Pixels:
    """A perspective picture of a product, whose middle shows the view's centre from 1.5 to 3 edges away."""
    edge = float(views.footprint_km[0])
    args = float(views.lng[0]), float(views.lat[0]), edge, float(views.turn[0])
    lng, lat = camera_ground(*args, tilt, edge * rng.uniform(1.5, 3.0))
    [(channels, _)] = _earth((product,), False).layers(lng, lat, edge / SIZE)
    return np.asarray(np.clip(channels, 0, 255).astype(np.uint8).transpose(1, 2, 0))


@lru_cache(maxsize=6)
def _earth(products: tuple[str, ...], land: bool) -> BuiltinEarth:
    return BuiltinEarth(products, land)


@lru_cache(maxsize=1)
def _centres() -> Centres:
    return Centres(-60, 78, 8, 0.01)
