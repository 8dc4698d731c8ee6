"""Sets of pictures with known places, drawn for fitting and measuring: as files would hold them, then embedded.

A picture is drawn larger than the encoder's input and rounded to 8 bits, so that it takes the road that a user's
picture takes. Sets are decided by their seed: a set that a model was tuned on has another seed than one that judges it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from indexer.builtin.styles import Style, Stylist
from indexer.builtin.views import Centres, Earth, Views, draw_views
from indexer.photos.embed import KnownPictures
from retrieval.encoders.open_clip import EncodesPhotos
from tile_cache.addressing import codes_at
from tile_cache.bluemarble import BlueMarble

_CHUNK = 64


@dataclass(frozen=True)
class PictureSet:
    """How a set is drawn: `count` views at `size` pixels of `products` in `style`, by `seed`."""

    name: str
    seed: int
    count: int
    size: int
    products: tuple[str, ...]
    footprint_km: tuple[float, float]
    turn: float
    style: Style

    @classmethod
    def read(cls, path: Path) -> dict[str, "PictureSet"]:
        """All sets of a file, by name."""
        sets = json.loads(path.read_text())
        return {
            name: cls(
                name,
                int(v["seed"]),
                int(v["count"]),
                int(v["size"]),
                tuple(v["products"]),
                (float(v["footprint_km"][0]), float(v["footprint_km"][1])),
                float(v["turn"]),
                Style.from_json(v["style"]),
            )
            for name, v in sets.items()
        }


def embed_set(chosen: PictureSet, earth: Earth, centres: Centres, encoder: EncodesPhotos) -> KnownPictures:
    """Draw a set and embed it; `earth` must hold its products and no others."""
    if earth.products != chosen.products:
        raise ValueError(f"the set {chosen.name} is drawn from {chosen.products}, not from {earth.products}")
    stylist, rng = Stylist(earth, chosen.style), np.random.default_rng([chosen.seed, 0])
    views = draw_views(centres, chosen.count, chosen.footprint_km, chosen.turn, rng)
    return embed_views(stylist, views, chosen.size, encoder, rng)


def embed_views(
    stylist: Stylist, views: Views, size: int, encoder: EncodesPhotos, rng: np.random.Generator
) -> KnownPictures:
    """Draw views as 8-bit pictures of `size` pixels and embed them."""
    rows = []
    for first in range(0, len(views), _CHUNK):
        part = views.take(np.arange(first, min(first + _CHUNK, len(views))))
        rows.append(embed_pictures(to_pixels(stylist.draw(part, size, rng)), encoder))
    return KnownPictures(np.concatenate(rows), views.lng, views.lat)


def to_pixels(pictures: torch.Tensor) -> NDArray[np.uint8]:
    """(n, 3, s, s) float32 from 0 to 1 to (n, s, s, 3) uint8."""
    return np.asarray((pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy())


def embed_pictures(pixels: NDArray[np.uint8], encoder: EncodesPhotos) -> NDArray[np.float32]:
    """(n, s, s, 3) uint8 to (n, dim) float32 by the encoder's own preparation."""
    return encoder.encode(np.stack([encoder.prepare(Image.fromarray(p)) for p in pixels]))


def nowhere_pictures(count: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Pictures of no place, (count, size, size, 3) uint8: noise, gradients, stripes, discs, flat colours."""
    rng = np.random.default_rng([seed, 1])
    return np.stack([_nowhere(i % 5, size, rng) for i in range(count)])


def sea_views(count: int, footprint_km: tuple[float, float], turn: float, seed: int, zoom: int) -> Views:
    """Views of the open sea and of the poles: centres in tiles of `zoom` with no land at all, uniform by area."""
    rng, earth = np.random.default_rng([seed, 2]), BlueMarble()
    lng = rng.uniform(-180, 180, 20 * count)
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, 20 * count)))
    empty = earth.land_fraction(codes_at(lng, lat, zoom), zoom) == 0
    lng, lat = lng[empty][:count], lat[empty][:count]
    edge = np.exp(rng.uniform(np.log(footprint_km[0]), np.log(footprint_km[1]), len(lng)))
    return Views(lng, lat, edge, rng.uniform(-turn, turn, len(lng)))


def _nowhere(kind: int, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    colours = rng.integers(0, 256, (4, 3))
    if kind == 0:  # noise at one scale
        cells = int(rng.integers(2, size))
        return _scaled(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8), size)
    if kind == 1:  # a gradient over four corners
        return _scaled(colours.reshape(2, 2, 3).astype(np.uint8), size)
    y, x = np.mgrid[:size, :size] / size
    angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 20)
    if kind == 2:  # stripes
        share = (np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle))) > rng.uniform(-0.7, 0.7))[
            ..., None
        ]
        return np.asarray(np.where(share, colours[0], colours[1]), dtype=np.uint8)
    if kind == 3:  # discs on a ground
        picture = np.broadcast_to(colours[0], (size, size, 3)).copy()
        for colour in colours[1:]:
            inside = (x - rng.uniform()) ** 2 + (y - rng.uniform()) ** 2 < rng.uniform(0.02, 0.2)
            picture[inside] = colour
        return picture.astype(np.uint8)
    flat = colours[0] + rng.normal(0, rng.uniform(0, 12), (size, size, 3))  # flat colour with grain
    return np.asarray(np.clip(flat, 0, 255), dtype=np.uint8)


def _scaled(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
