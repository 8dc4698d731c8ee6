"""Beam and frontier posterior by plain loops over dictionaries, from the design's formulas and nothing of the engine.

A tile is (z, x, y). Vectors are unit rows as the index stores them; a tile without one maps to None.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

TileKey = tuple[int, int, int]
Vectors = Mapping[TileKey, np.ndarray | None]


class Numbers(NamedTuple):
    """One zoom's tau, gamma and b."""

    tau: float
    gamma: float
    b: float | None


@dataclass
class Found:
    """A search: per zoom the beam and every candidate's similarity; the frontier's masses."""

    kept: dict[int, list[TileKey]]
    similarity: dict[TileKey, float]
    frontier: dict[TileKey, float]
    elsewhere: float
    margins: dict[int, float]  # per pruned zoom: relative gap between the lowest score in the beam and the next

    def confidence(self, tile: TileKey) -> float:
        """The frontier mass in a tile."""
        return sum(mass for other, mass in self.frontier.items() if is_under(other, tile))


def is_under(tile: TileKey, ancestor: TileKey) -> bool:
    """Whether a tile equals another or lies in it."""
    up = tile[0] - ancestor[0]
    return up >= 0 and (tile[1] >> up, tile[2] >> up) == ancestor[1:]


def search(
    photo: np.ndarray, vectors: Vectors, numbers: Mapping[int, Numbers], zooms: Sequence[int], k: int, scoring: str
) -> Found:
    """Search for one photo, (d,) float64, level by level."""
    found = Found({}, {}, {}, 0.0, {})
    parents: list[TileKey] = [(0, 0, 0)]
    mass: dict[TileKey, float] = {(0, 0, 0): 1.0}
    for z in zooms:
        tiles = [t for t, v in vectors.items() if t[0] == z and v is not None]
        children = {p: [t for t in tiles if is_under(t, p)] for p in parents}
        active = [p for p in parents if children[p]]
        total = sum(mass[p] for p in active)
        n, weights = numbers[z], dict[TileKey, float]()
        for p in active:
            for t in children[p]:
                s = float(np.dot(photo, np.asarray(vectors[t], dtype=np.float64)))
                found.similarity[t] = s
                weights[t] = n.gamma * math.log(mass[p] / total) + s / n.tau
        nowhere = 0.0 if n.b is None else math.exp(n.b)
        norm = nowhere + sum(math.exp(w) for w in weights.values())
        for p in active:
            found.frontier.pop(p, None)
        found.elsewhere += total * nowhere / norm
        mass = {t: total * math.exp(w) / norm for t, w in weights.items()}
        found.frontier.update(mass)
        score = mass if scoring == "posterior" else {t: found.similarity[t] for t in weights}
        order = sorted(weights, key=lambda t: (-score[t], morton(t)))
        parents = found.kept[z] = order[:k]
        if len(order) > k:
            found.margins[z] = 1 - score[order[k]] / score[order[k - 1]]
    return found


def morton(tile: TileKey) -> int:
    """The Morton code, which orders the rows: bits of x and y in turn."""
    return sum(((tile[1] >> i & 1) << 2 * i) | ((tile[2] >> i & 1) << 2 * i + 1) for i in range(tile[0]))


def edges(tile: TileKey) -> tuple[float, float, float, float]:
    """(west, south, east, north) in degrees."""
    z, x, y = tile
    lat = [math.degrees(2 * math.atan(math.exp(2 * math.pi * (0.5 - v / 2**z))) - math.pi / 2) for v in (y + 1, y)]
    return 360 * x / 2**z - 180, lat[0], 360 * (x + 1) / 2**z - 180, lat[1]


def middle(tile: TileKey) -> tuple[float, float]:
    """Return the centre by the hierarchical-search paper's formula, (lng, lat) in degrees."""
    z, x, y = tile
    lat = 180 / math.pi * (2 * math.atan(math.exp(2 * math.pi * (0.5 - (y + 0.5) / 2**z))) - math.pi / 2)
    return 360 * (x + 0.5) / 2**z - 180, lat


def expected_loss_km(lng: float, lat: float, frontier: Mapping[TileKey, float], n: int = 12) -> float:
    """Mean of min(distance, 2000 km) from a point to the frontier's mass; each tile is n x n points."""
    steps, loss = (np.arange(n) + 0.5) / n, 0.0
    for tile, mass in frontier.items():
        west, south, east, north = edges(tile)
        lngs = np.radians(west + (east - west) * steps)
        low, high = math.sin(math.radians(south)), math.sin(math.radians(north))
        lats = np.arcsin(low + (high - low) * steps)
        half = np.sin((lats[:, None] - math.radians(lat)) / 2) ** 2
        half = half + math.cos(math.radians(lat)) * np.cos(lats)[:, None] * np.sin((lngs - math.radians(lng)) / 2) ** 2
        loss += mass * float(np.minimum(2 * 6371.0088 * np.arcsin(np.sqrt(half)), 2000).mean())
    return loss
