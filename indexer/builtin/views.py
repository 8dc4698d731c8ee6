"""Pictures of the Earth from above, drawn from whole-Earth products: the photos that the built-in model learns from.

A view is a square of `footprint_km` on the ground around a centre, turned by some degrees, sampled in a local
azimuthal equidistant plane. Products are held as mip levels in one flat array of packed pixels, so that a batch of
views of any products and footprints is one gather. This module knows nothing of styles, tiles or models.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.sphere import EARTH_RADIUS_KM
from tile_cache.addressing import codes_at
from tile_cache.bluemarble import BlueMarble, load_land, load_product

__all__ = ["Centres", "Earth", "Views", "draw_views"]

_EQUATOR_KM = 2 * np.pi * EARTH_RADIUS_KM
_LEVELS = 4


@dataclass(frozen=True)
class Views:
    """Centres (degrees), edges (km) and turns (degrees clockwise) of n views; (n,) float64 each."""

    lng: NDArray[np.float64]
    lat: NDArray[np.float64]
    footprint_km: NDArray[np.float64]
    turn: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.lng)

    def take(self, which: NDArray[np.int64]) -> "Views":
        """The views at these positions, in their order."""
        return Views(self.lng[which], self.lat[which], self.footprint_km[which], self.turn[which])


class Earth:
    """Products and the land mask in memory, ready to be sampled; about 500 MB for all three products."""

    def __init__(self, products: tuple[str, ...]) -> None:
        self.products = products
        flat: list[Tensor] = []
        table: list[list[tuple[int, int, int]]] = []  # per product and level: first pixel, height, width
        for name in products:
            levels = _mip_levels(torch.from_numpy(load_product(name).copy()))
            table.append([])
            for level in levels:
                table[-1].append((sum(len(f) for f in flat), level.shape[0], level.shape[1]))
                flat.append(_pack(level))
        self._pixels = torch.cat(flat)
        self._table = torch.tensor(table, dtype=torch.int64)  # (products, levels, 3)
        land = torch.from_numpy(load_land().copy()).float()[None, None]
        self._land = torch.nn.functional.avg_pool2d(land, 2)[0, 0].mul(255).round().to(torch.uint8).reshape(-1)

    def draw(self, views: Views, product: NDArray[np.int64], size: int) -> Tensor:
        """Draw views, the i-th of product number `product[i]`: (n, 3, size, size) float32 RGB from 0 to 1."""
        lng, lat = _ground(views, size)
        shape = self._table[torch.from_numpy(product)]  # (n, levels, 3)
        base_km = _EQUATOR_KM / shape[:, 0, 2].double()
        exact_level = torch.log2(torch.from_numpy(views.footprint_km / size) / base_km)
        level = exact_level.round().clamp(0, _LEVELS - 1).long()
        first, height, width = shape[torch.arange(len(level)), level].unbind(1)
        return _bilinear(self._pixels, lng, lat, first, height, width).permute(0, 3, 1, 2)

    def land(self, views: Views, size: int) -> Tensor:
        """Share of land under each pixel of the views, (n, 1, size, size) float32 from 0 to 1."""
        lng, lat = _ground(views, size)
        column = torch.remainder(((lng + 180) / 360 * 4320).floor().long(), 4320)
        row = ((90 - lat) / 180 * 2160).floor().long().clamp(0, 2159)
        return self._land[row * 4320 + column].float().div(255)[:, None]


class Centres:
    """Random centres on land and coasts, uniform by area, in tiles of `zoom` with at least the share `land` of land."""

    def __init__(self, south: float, north: float, zoom: int, land: float) -> None:
        self._south, self._north = np.sin(np.radians([south, north]))
        self._zoom, self._land, self._earth = zoom, land, BlueMarble()

    def draw(self, n: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """n centres as (lng, lat), (n,) float64 degrees, in tiles with at least the minimum share of land."""
        lngs, lats = np.empty(0), np.empty(0)
        while len(lngs) < n:
            lng = rng.uniform(-180, 180, 4 * n)
            lat = np.degrees(np.arcsin(rng.uniform(self._south, self._north, 4 * n)))
            on_land = self._earth.land_fraction(codes_at(lng, lat, self._zoom), self._zoom) >= self._land
            lngs, lats = np.concatenate([lngs, lng[on_land]]), np.concatenate([lats, lat[on_land]])
        return lngs[:n], lats[:n]


def draw_views(
    centres: Centres, n: int, footprint_km: tuple[float, float], turn: float, rng: np.random.Generator
) -> Views:
    """n random views: footprints log-uniform between two lengths, turns uniform within +-`turn` degrees."""
    lng, lat = centres.draw(n, rng)
    edge = np.exp(rng.uniform(np.log(footprint_km[0]), np.log(footprint_km[1]), n))
    return Views(lng, lat, edge, rng.uniform(-turn, turn, n))


def _ground(views: Views, size: int) -> tuple[Tensor, Tensor]:
    """Longitude and latitude under every pixel, (n, size, size) float32 degrees each."""
    step = (torch.arange(size, dtype=torch.float32) + 0.5) / size - 0.5
    edge = torch.from_numpy(views.footprint_km / EARTH_RADIUS_KM).float()[:, None, None]
    turn = torch.from_numpy(np.radians(views.turn)).float()[:, None, None]
    right, down = step[None, None, :] * edge, step[None, :, None] * edge
    east, north = right * turn.cos() - down * turn.sin(), -(right * turn.sin() + down * turn.cos())
    rho = (east**2 + north**2).sqrt().clamp_min(1e-9)
    sin_c, cos_c = rho.sin() / rho, rho.cos()
    lat0 = torch.from_numpy(np.radians(views.lat)).float()[:, None, None]
    lat = (cos_c * lat0.sin() + north * sin_c * lat0.cos()).clamp(-1, 1).asin()
    lng = torch.atan2(east * sin_c, lat0.cos() * cos_c - north * lat0.sin() * sin_c)
    lng0 = torch.from_numpy(views.lng).float()[:, None, None]
    return torch.remainder(torch.rad2deg(lng) + lng0 + 180, 360) - 180, torch.rad2deg(lat)


def _mip_levels(picture: Tensor) -> list[Tensor]:
    """A picture (h, w, 3) uint8 and its halvings."""
    levels = [picture]
    while len(levels) < _LEVELS:
        half = torch.nn.functional.avg_pool2d(levels[-1].permute(2, 0, 1).float(), 2)
        levels.append(half.round().to(torch.uint8).permute(1, 2, 0))
    return levels


def _pack(picture: Tensor) -> Tensor:
    """Pixels (h, w, 3) uint8 to one (h * w,) int32: a gather moves one number instead of three."""
    red, green, blue = picture.reshape(-1, 3).int().unbind(1)
    return red | (green << 8) | (blue << 16)


def _unpack(pixels: Tensor) -> Tensor:
    return torch.stack([pixels & 255, (pixels >> 8) & 255, (pixels >> 16) & 255], dim=-1).float()


def _bilinear(pixels: Tensor, lng: Tensor, lat: Tensor, first: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Sample level rasters at (n, s, s) degrees: (n, s, s, 3) float32 from 0 to 1; columns wrap, rows do not."""
    first, height, width = (v[:, None, None] for v in (first, height, width))
    u, v = (lng + 180) / 360 * width - 0.5, (90 - lat) / 180 * height - 0.5
    left, top = u.floor(), v.floor()
    across, down = (u - left)[..., None], (v - top)[..., None]
    c0, c1 = (torch.remainder(left.long() + i, width) for i in (0, 1))
    r0, r1 = (torch.minimum((top.long() + i).clamp_min(0), height - 1) * width + first for i in (0, 1))
    upper = torch.lerp(_unpack(pixels[r0 + c0]), _unpack(pixels[r0 + c1]), across)
    lower = torch.lerp(_unpack(pixels[r1 + c0]), _unpack(pixels[r1 + c1]), across)
    return torch.lerp(upper, lower, down) / 255
