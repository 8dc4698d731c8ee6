"""A photo set of known structure: seven towns with photos close around them, and some strays far from any town."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.sphere import degrees_of, unit_vectors

TOWNS = ((48.9, 2.3), (40.7, -74.0), (-17.7, 179.97), (78.2, 15.6), (-33.9, 151.2), (0.3, 32.5), (84.0, -120.0))
"""Latitude and longitude; one town lies on the date line, one near the pole."""
EACH, STRAYS, RADIUS_KM = 40, 12, 8.0


def town_photos(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Unit vectors, (n, 3), in random order, and the town of each photo, (n,), -1 for strays."""
    rng = np.random.default_rng(seed)
    lat, lng = np.array(TOWNS).T
    town = np.repeat(np.arange(len(TOWNS)), EACH)
    spread = rng.normal(size=(len(town), 3)) * RADIUS_KM / 6371
    strays = rng.normal(size=(STRAYS, 3))
    vectors = np.concatenate([unit_vectors(lng, lat)[town] + spread, strays * [1, 1, 0.3]])
    order = rng.permutation(len(vectors))
    town = np.append(town, np.full(STRAYS, -1))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[order], town[order]


def write_photos(folder: Path, seed: int = 0) -> Path:
    """Write a table of these photos, with a row whose file is missing. The picture files are dummies."""
    vectors, _ = town_photos(seed)
    lng, lat = degrees_of(vectors)
    for number in range(len(vectors)):
        (folder / f"{number}.jpg").write_bytes(b"-")
    lines = [f"{i}.jpg,{lat[i]:.6f},{lng[i]:.6f}" for i in range(len(vectors))]
    path = folder / "photos.csv"
    path.write_text("\n".join(["path,latitude,longitude", *lines, "gone.jpg,1,1", ""]))
    return path
