"""How well densities foretell where photos are taken, and how far GeoCLIP's logits differ within a tile.

    python -m benchmarks.density             half a minute: the table of densities in docs/priors.md
    python -m benchmarks.density --logits    and the spread of logits among the quarters of a tile, zoom by zoom

Places are those of GeoCLIP's gallery, one half shown to each density and the other foretold. Markdown goes to standard
output.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from retrieval.priors.density import DEEPEST, Density
from retrieval.priors.geoclip_data import gallery
from retrieval.sphere import EARTH_RADIUS_KM, unit_vectors_of_sines
from tile_cache.addressing import area_shares, centres_of_codes, children_of_codes, codes_at

ZOOM = 8
TILES = np.arange(4**ZOOM, dtype=np.uint64)
EVEN = (0.003, 0.01, 0.02, 0.03, 0.05)
Floats = NDArray[np.float64]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", action="store_true", help="also the spread of logits; loads torch")
    asked = parser.parse_args()
    places = np.random.default_rng(0).permutation(gallery())
    shown, foretold = places[: len(places) // 2], places[len(places) // 2 :]
    tiles = codes_at(foretold[:, 1], foretold[:, 0], ZOOM)
    print("| density | nats a photo |\n|---|---|")
    for name, masses in densities(shown):
        print(f"| {name} | {max(float(np.log(mass[tiles]).mean()) for mass in masses):.3f} |")
    if asked.logits:
        print("\n| zoom | spread of logits among quarters: photo from there | from elsewhere |\n|---|---|---|")
        for zoom, here, elsewhere in spreads(places):
            print(f"| {zoom} | {here:.2f} | {elsewhere:.2f} |")


def densities(shown: Floats) -> Iterator[tuple[str, list[Floats]]]:
    """Names, and the masses of all tiles of zoom 8, (65,536,), of which the best counts."""
    area = area_shares(TILES, ZOOM)
    counts = np.bincount(codes_at(shown[:, 1], shown[:, 0], ZOOM).astype(np.intp), minlength=len(TILES))
    counts = counts / counts.sum()
    yield "even by area", [area]
    for km in (300, 150, 100, 75, 50, 25):
        yield f"kernel of {km} km", [(1 - even) * smoothed(counts, area, km) + even * area for even in EVEN]
    yield "counts by tile", [(1 - even) * counts + even * area for even in EVEN]
    codes = np.sort(codes_at(shown[:, 1], shown[:, 0], DEEPEST))
    for pseudo in (0.5, 1.0, 2.0, 4.0):
        yield f"Pólya tree, {pseudo:g} by area", [Density(codes, pseudo).mass]


def smoothed(counts: Floats, area: Floats, km: float) -> Floats:
    """A von Mises-Fisher kernel around every tile that has photos, a Gaussian of that deviation where it is narrow."""
    lng, lat = centres_of_codes(TILES, ZOOM)
    vectors = unit_vectors_of_sines(lng, np.sin(np.radians(lat))).astype(np.float32)
    mass, there = np.zeros(len(TILES)), np.flatnonzero(counts)
    for start in range(0, len(there), 512):
        some = there[start : start + 512]
        kernel = np.exp(np.float32((EARTH_RADIUS_KM / km) ** 2) * (vectors @ vectors[some].T - 1))
        kernel *= area[:, None].astype(np.float32)
        mass += (kernel / kernel.sum(axis=0)) @ counts[some].astype(np.float32)
    return mass


def spreads(places: Floats, count: int = 150) -> Iterator[tuple[int, float, float]]:
    """Per zoom the deviation of the logits of a tile's quarters: for features of a place in it, and of others."""
    from retrieval.priors.geoclip_models import LocationEncoder

    encoder = LocationEncoder.load("cpu")
    here, elsewhere = places[:count], places[count : 2 * count]
    features, others = (encoder.encode(*some.T) for some in (here, elsewhere))
    for zoom in (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16):
        parents = codes_at(here[:, 1], here[:, 0], zoom - 1)
        lng, lat = centres_of_codes(children_of_codes(parents, 1), zoom)
        vectors = encoder.encode(lat, lng).reshape(count, 4, -1)
        found = [
            encoder.logit_scale * np.einsum("nkd,nd->nk", vectors, f).std(axis=1).mean() for f in (features, others)
        ]
        yield zoom, float(found[0]), float(found[1])


if __name__ == "__main__":
    main()
