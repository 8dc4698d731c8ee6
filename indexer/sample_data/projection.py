"""Where a place falls in a view: the inverse of how views are drawn (`indexer.builtin.views`).

Degrees in, pixels out: columns to the right, rows downwards, (0, 0) the outer corner of the first pixel.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.builtin.views import Views
from retrieval.sphere import EARTH_RADIUS_KM

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """One view: centre in degrees, edge in km, turn in degrees clockwise."""

    lng: float
    lat: float
    footprint_km: float
    turn: float

    @classmethod
    def of(cls, views: Views, i: int) -> "View":
        """The i-th of some views."""
        return cls(*(float(v[i]) for v in (views.lng, views.lat, views.footprint_km, views.turn)))

    def pixels(self, lng: Floats, lat: Floats, size: int) -> Floats:
        """Places (n,) and (n,) in degrees to (n, 2) columns and rows in a picture of `size` pixels."""
        phi, phi0, away = np.radians(lat), np.radians(self.lat), np.radians(lng - self.lng)
        east, north = np.cos(phi) * np.sin(away), np.sin(phi) * np.cos(phi0) - np.cos(phi) * np.sin(phi0) * np.cos(away)
        chord = np.hypot(east, north)
        angle = np.arctan2(chord, np.sin(phi) * np.sin(phi0) + np.cos(phi) * np.cos(phi0) * np.cos(away))
        stretch = np.where(chord > 1e-12, angle / np.maximum(chord, 1e-12), 1.0) * EARTH_RADIUS_KM / self.footprint_km
        turn = np.radians(self.turn)
        right = east * np.cos(turn) - north * np.sin(turn)
        down = -east * np.sin(turn) - north * np.cos(turn)
        return (np.stack([right, down], axis=1) * stretch[:, None] + 0.5) * size
