"""Where a picture's pixels lie on the ground: frames, their azimuthal planes, and footprints.

Picture coordinates (u, v) run to the right and downwards, in edges of the picture's central square: its corners are at
+-0.5. A frame maps them by a homography to the azimuthal equidistant plane around its centre, whose coordinates are
km to the east and north, and from there to the sphere (Snyder, Map Projections, 1987, chapter 25). Knows no pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.sphere import EARTH_RADIUS_KM

__all__ = ["CORNERS", "Frame", "ground", "pixel_centres", "plane"]

Floats = NDArray[np.float64]

CORNERS: Floats = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
"""The corners of the central square, (4, 2) u and v: top left, then clockwise."""


def ground(
    lng: Floats | float, lat: Floats | float, east_km: Floats | float, north_km: Floats | float
) -> tuple[Floats, Floats]:
    """Points of the planes around (lng, lat), which broadcast, to longitudes and latitudes.

    Degrees, longitudes from -180 to 180.
    """
    rho = np.hypot(east_km, north_km)
    angle = rho / EARTH_RADIUS_KM
    sine = np.sinc(angle / np.pi) / EARTH_RADIUS_KM  # sin(angle) / rho, which is defined at the centre too
    cosine, phi = np.cos(angle), np.radians(lat)
    up = north_km * sine
    lats = np.arcsin(np.clip(cosine * np.sin(phi) + up * np.cos(phi), -1, 1))
    away = np.arctan2(east_km * sine, np.cos(phi) * cosine - up * np.sin(phi))
    return (np.degrees(away) + lng + 180) % 360 - 180, np.degrees(lats)


def plane(
    lng: Floats | float, lat: Floats | float, lngs: Floats | float, lats: Floats | float
) -> tuple[Floats, Floats]:
    """Places in degrees to km east and north in the planes around (lng, lat), which broadcast; undoes `ground`."""
    phi, phi0, away = np.radians(lats), np.radians(lat), np.radians(lngs - lng)
    east = np.cos(phi) * np.sin(away)
    north = np.sin(phi) * np.cos(phi0) - np.cos(phi) * np.sin(phi0) * np.cos(away)
    chord = np.hypot(east, north)
    angle = np.arctan2(chord, np.sin(phi) * np.sin(phi0) + np.cos(phi) * np.cos(phi0) * np.cos(away))
    stretch = np.where(chord > 1e-15, angle / np.maximum(chord, 1e-15), 1.0) * EARTH_RADIUS_KM
    return np.asarray(east * stretch), np.asarray(north * stretch)


def pixel_centres(px: int, margin: int = 0) -> tuple[Floats, Floats]:
    """(u, v) of the pixels of a square picture of `px` pixels an edge, with `margin` more on each side.

    Each is (px + 2 margin, px + 2 margin).
    """
    step = (np.arange(-margin, px + margin) + 0.5) / px - 0.5
    return np.broadcast_to(step[None, :], (len(step), len(step))), np.broadcast_to(
        step[:, None], (len(step), len(step))
    )


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture's place: centre in degrees, and the homography from (u, v) to km east and north of the centre."""

    lng: float
    lat: float
    matrix: Floats  # (3, 3); (0, 0) maps to (0, 0)

    @classmethod
    def upright(cls, lng: float, lat: float, edge_km: float, heading: float = 0.0) -> "Frame":
        """A frame without tilt. `heading`: the compass direction of the picture's top, degrees clockwise of north."""
        turn = np.radians(heading)
        cosine, sine = edge_km * np.cos(turn), edge_km * np.sin(turn)
        return cls(lng, lat, np.array([[cosine, -sine, 0.0], [-sine, -cosine, 0.0], [0.0, 0.0, 1.0]]))

    @property
    def edge_km(self) -> float:
        """The central square's edge on the ground, at the scale of its middle."""
        return float(np.sqrt(abs(np.linalg.det(self._linear()))))

    @property
    def heading(self) -> float:
        """The compass direction of the picture's top at the centre, -180 to 180 degrees."""
        linear = self._linear()
        # The nearest similarity: right gives its angle, and so does up.
        angle = np.arctan2(-linear[1, 0] - linear[0, 1], linear[0, 0] - linear[1, 1])
        return float(np.degrees(angle))

    @property
    def is_plausible(self) -> bool:
        """Whether a camera can have this frame: the corners are in order, and no side is 4 times as long as another."""
        depth = CORNERS @ self.matrix[2, :2] + self.matrix[2, 2]
        if depth.min() <= 0.2 * depth.max():
            return False
        x, y = self.to_plane(CORNERS[:, 0], CORNERS[:, 1])
        sides = np.stack([np.roll(x, -1) - x, np.roll(y, -1) - y], axis=1)
        crossed = sides[:, 0] * np.roll(sides[:, 1], -1) - sides[:, 1] * np.roll(sides[:, 0], -1)
        lengths = np.hypot(sides[:, 0], sides[:, 1])
        return bool((crossed < 0).all() and lengths.max() < 4 * lengths.min())

    def to_plane(self, u: Floats | float, v: Floats | float) -> tuple[Floats, Floats]:
        """Picture coordinates to km east and north of the centre."""
        m = self.matrix
        depth = m[2, 0] * u + m[2, 1] * v + m[2, 2]
        return tuple(np.asarray((m[i, 0] * u + m[i, 1] * v + m[i, 2]) / depth) for i in (0, 1))  # type: ignore[return-value]

    def ground(self, u: Floats | float, v: Floats | float) -> tuple[Floats, Floats]:
        """Picture coordinates to longitudes and latitudes in degrees."""
        return ground(self.lng, self.lat, *self.to_plane(u, v))

    def warped(self, warp: Floats) -> "Frame":
        """The frame of which `warp`, (3, 3), maps picture coordinates to those of this frame.

        The new centre is where the picture's middle comes to lie, and the plane is the one around it; meridians
        converge, so the heading changes with the centre. The homography is fitted to the corners and is exact there.
        """
        bent = Frame(self.lng, self.lat, self.matrix @ warp)
        lng, lat = (float(value) for value in bent.ground(0.0, 0.0))
        east, north = plane(lng, lat, *bent.ground(CORNERS[:, 0], CORNERS[:, 1]))
        return Frame(lng, lat, homography_of(CORNERS, np.stack([east, north], axis=1), through_origin=True))

    def _linear(self) -> Floats:
        """The derivative of the homography at the centre, (2, 2)."""
        m = self.matrix
        return np.asarray((m[:2, :2] - np.outer(m[:2, 2] / m[2, 2], m[2, :2])) / m[2, 2])


def homography_of(sources: Floats, targets: Floats, through_origin: bool = False) -> Floats:
    """The homography of n >= 4 pairs of points, (n, 2) each, by least squares: (3, 3) with 1 at the lower right.

    `through_origin`: the one that maps (0, 0) to (0, 0), which four pairs overdetermine.
    """
    scale = float(np.abs(targets).max()) or 1.0
    (u, v), (x, y), zero, one = sources.T, targets.T / scale, np.zeros(len(sources)), np.ones(len(sources))
    rows = np.concatenate(
        [
            np.stack([u, v, one, zero, zero, zero, -x * u, -x * v], axis=1),
            np.stack([zero, zero, zero, u, v, one, -y * u, -y * v], axis=1),
        ]
    )
    if through_origin:
        rows[:, [2, 5]] = 0.0
    values = np.linalg.lstsq(rows, np.concatenate([x, y]), rcond=None)[0]
    return np.asarray(np.diag([scale, scale, 1.0]) @ np.append(values, 1.0).reshape(3, 3))
