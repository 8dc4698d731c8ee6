"""An Earth of seeded noise as a reference for registration, and pictures of it: no packages' rasters needed."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.registration.fields import Layer
from retrieval.registration.geometry import Frame, pixel_centres
from retrieval.sphere import great_circle_km

COLUMNS, ROWS = 3600, 1800
OCTAVES = ((60, 0.8), (180, 1.0), (600, 0.8), (1800, 0.5))


@lru_cache(maxsize=2)
def noise_world(seed: int) -> NDArray[np.float32]:
    """(1800, 3600, 3) float32 from 0 to 255, 11 km a pixel, whose columns wrap."""
    rng = np.random.default_rng(seed)
    total = np.zeros((ROWS, COLUMNS, 3), dtype=np.float32)
    for cells, weight in OCTAVES:
        small = rng.uniform(0, 255, (cells // 2, cells, 3)).astype(np.uint8)
        small = np.concatenate([small, small[:, :2]], axis=1)
        across = COLUMNS * (cells + 2) // cells
        large = Image.fromarray(small).resize((across, ROWS), Image.Resampling.BICUBIC)
        total += weight * np.asarray(large, dtype=np.float32)[:, COLUMNS // cells : COLUMNS // cells + COLUMNS]
    return total / sum(weight for _, weight in OCTAVES)


class NoiseEarth:
    """The noise as one rendition; within `removed` = (lng, lat, km) it shows the ground 100 degrees further east."""

    def __init__(self, seed: int = 0, removed: tuple[float, float, float] | None = None) -> None:
        self.identity, self._seed, self._removed = f"noise {seed} {removed}", seed, removed

    def layers(self, lng: NDArray[np.float64], lat: NDArray[np.float64], pixel_km: float) -> list[Layer]:
        """Bilinear samples; pixels wider than the raster's are not averaged."""
        world = noise_world(self._seed)
        if self._removed is not None:
            x, y, km = self._removed
            lng = np.where(great_circle_km(lng, lat, np.float64(x), np.float64(y)) < km, lng + 100, lng)
        column, row = (lng + 180) / 360 * COLUMNS - 0.5, np.clip((90 - lat) / 180 * ROWS - 0.5, 0, ROWS - 1.001)
        left, top = np.floor(column).astype(int), np.floor(row).astype(int)
        across, down = (column - left)[..., None], (row - top)[..., None]
        c0, c1 = left % COLUMNS, (left + 1) % COLUMNS
        upper = world[top, c0] * (1 - across) + world[top, c1] * across
        lower = world[top + 1, c0] * (1 - across) + world[top + 1, c1] * across
        return [(np.moveaxis(upper * (1 - down) + lower * down, -1, 0).astype(np.float32), 1.0)]


def picture_of(earth: NoiseEarth, frame: Frame, px: int = 128) -> NDArray[np.uint8]:
    """The picture with this frame, (px, px, 3) uint8."""
    [(channels, _)] = earth.layers(*frame.ground(*pixel_centres(px)), frame.edge_km / px)
    return np.asarray(np.clip(np.rint(np.moveaxis(channels, 0, -1)), 0, 255), dtype=np.uint8)
