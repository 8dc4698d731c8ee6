"""Pictures drawn from whole-Earth products: sets with known places, pictures of no place, and the bundled samples.

A picture is drawn larger than the encoder's input and rounded to 8 bits, so it is processed as a user's picture is. A
set follows from its seed; sets for fitting and sets for measuring have different seeds.

`python -m indexer.builtin.pictures` writes the samples again, the same to the bit with one version of Pillow and torch.
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
from retrieval.encoders.base import EncodesPhotos
from retrieval.encoders.open_clip import builtin_directory
from tile_cache.addressing import codes_at
from tile_cache.bluemarble import BlueMarble

__all__ = [
    "PictureSet",
    "embed_pictures",
    "embed_views",
    "make_samples",
    "nowhere_pictures",
    "sea_views",
    "to_pixels",
]

_DRAWN_AT_ONCE = 64
_SAMPLES, _SAMPLE_SIZE, _SAMPLE_SEED = 8, 320, 2026
_HAZY = Style(haze=1.0, haze_strength=0.35, contrast=0.2, noise=1.0, noise_strength=0.02)


@dataclass(frozen=True)
class PictureSet:
    """How a set is drawn: `count` views with `size` pixels an edge, from `products`, in `style`, by `seed`."""

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


def embed_views(
    stylist: Stylist, views: Views, size: int, encoder: EncodesPhotos, rng: np.random.Generator
) -> KnownPictures:
    """Draw views as 8-bit pictures of `size` pixels and embed them."""
    rows = []
    for first in range(0, len(views), _DRAWN_AT_ONCE):
        chunk = views.take(np.arange(first, min(first + _DRAWN_AT_ONCE, len(views))))
        rows.append(embed_pictures(to_pixels(stylist.draw(chunk, size, rng)), encoder))
    return KnownPictures(np.concatenate(rows), views.lng, views.lat)


def to_pixels(pictures: torch.Tensor) -> NDArray[np.uint8]:
    """Pictures, (n, 3, s, s) float32 from 0 to 1, to pixels, (n, s, s, 3) uint8."""
    return np.asarray((pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy())


def embed_pictures(pixels: NDArray[np.uint8], encoder: EncodesPhotos) -> NDArray[np.float32]:
    """Pixels, (n, s, s, 3) uint8, to embeddings, (n, dim) float32, prepared as the encoder prepares photos."""
    return encoder.encode(np.stack([encoder.prepare(Image.fromarray(p)) for p in pixels]))


def nowhere_pictures(count: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Pictures of no place, (count, size, size, 3) uint8: noise, gradients, stripes, discs, flat colours."""
    rng = np.random.default_rng([seed, 1])
    return np.stack([_nowhere(i % 5, size, rng) for i in range(count)])


def sea_views(count: int, footprint_km: tuple[float, float], turn: float, seed: int, zoom: int) -> Views:
    """Up to `count` views of the open sea and the poles: centres in tiles of `zoom` without land, uniform by area."""
    rng, earth = np.random.default_rng([seed, 2]), BlueMarble()
    lng = rng.uniform(-180, 180, 20 * count)
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, 20 * count)))
    empty = earth.land_fraction(codes_at(lng, lat, zoom), zoom) == 0
    lng, lat = lng[empty][:count], lat[empty][:count]
    edge = np.exp(rng.uniform(np.log(footprint_km[0]), np.log(footprint_km[1]), len(lng)))
    return Views(lng, lat, edge, rng.uniform(-turn, turn, len(lng)))


def make_samples(folder: Path) -> None:
    """Write sample-1.jpg to sample-8.jpg, from Blue Marble and hazy shaded relief, and their places in samples.json."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(_SAMPLE_SEED)
    views = draw_views(Centres(-60, 78, 8, 0.01), _SAMPLES, (450, 1000), 15, rng)
    styles = (("bmng", Style()), ("shadedrelief", _HAZY))
    entries = []
    for i in range(_SAMPLES):
        product, style = styles[i % 2]
        view = views.take(np.array([i]))
        pixels = to_pixels(Stylist(Earth((product,)), style).draw(view, _SAMPLE_SIZE, rng))[0]
        name = f"sample-{i + 1}.jpg"
        Image.fromarray(pixels).save(folder / name, "JPEG", quality=90)
        place = {"lat": round(float(view.lat[0]), 4), "lon": round(float(view.lng[0]), 4)}
        entries.append({"file": name, **place, "footprint_km": round(float(view.footprint_km[0])), "product": product})
    (folder / "samples.json").write_text(json.dumps(entries, indent=1) + "\n")


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
    if kind == 3:  # discs on a background
        picture = np.broadcast_to(colours[0], (size, size, 3)).copy()
        for colour in colours[1:]:
            inside = (x - rng.uniform()) ** 2 + (y - rng.uniform()) ** 2 < rng.uniform(0.02, 0.2)
            picture[inside] = colour
        return picture.astype(np.uint8)
    flat = colours[0] + rng.normal(0, rng.uniform(0, 12), (size, size, 3))  # flat colour with grain
    return np.asarray(np.clip(flat, 0, 255), dtype=np.uint8)


def _scaled(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


if __name__ == "__main__":
    make_samples(builtin_directory() / "samples")
