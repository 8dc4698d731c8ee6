"""How well densities predict where photos are taken, and how much GeoCLIP's logits differ within a tile.

    python -m benchmarks.density             half a minute: the table of densities
    python -m benchmarks.density --logits    also the spread of logits among the quarters of a tile, per zoom

The places are those of GeoCLIP's gallery: each density is fitted to one half and predicts the other. Markdown goes to
standard output.
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
    arguments = parser.parse_args()
    places = np.random.default_rng(0).permutation(gallery())
    fitted, held_out = places[: len(places) // 2], places[len(places) // 2 :]
    tiles = codes_at(held_out[:, 1], held_out[:, 0], ZOOM)
    print("| density | nats a photo |\n|---|---|")
    for name, masses in densities(fitted):
        print(f"| {name} | {max(float(np.log(mass[tiles]).mean()) for mass in masses):.3f} |")
    if arguments.logits:
        print("\n| zoom | spread of logits among quarters: photo from there | from elsewhere |\n|---|---|---|")
        for zoom, inside, outside in spreads(places):
            print(f"| {zoom} | {inside:.2f} | {outside:.2f} |")


def densities(places: Floats) -> Iterator[tuple[str, list[Floats]]]:
    """Names, and variants of the masses of all tiles of zoom 8, (65,536,), of which the best counts."""
    area = area_shares(TILES, ZOOM)
    counts = np.bincount(codes_at(places[:, 1], places[:, 0], ZOOM).astype(np.intp), minlength=len(TILES))
    counts = counts / counts.sum()
    yield "even by area", [area]
    for km in (300, 150, 100, 75, 50, 25):
        yield f"kernel of {km} km", [(1 - even) * smoothed(counts, area, km) + even * area for even in EVEN]
    yield "counts by tile", [(1 - even) * counts + even * area for even in EVEN]
    codes = np.sort(codes_at(places[:, 1], places[:, 0], DEEPEST))
    for pseudo in (0.5, 1.0, 2.0, 4.0):
        yield f"Pólya tree, {pseudo:g} by area", [Density(codes, pseudo).mass]


def smoothed(counts: Floats, area: Floats, km: float) -> Floats:
    """A von Mises-Fisher kernel around every tile with photos; a narrow one is a Gaussian of `km` deviation."""
    lng, lat = centres_of_codes(TILES, ZOOM)
    vectors = unit_vectors_of_sines(lng, np.sin(np.radians(lat))).astype(np.float32)
    mass, with_photos = np.zeros(len(TILES)), np.flatnonzero(counts)
    for start in range(0, len(with_photos), 512):
        centres = with_photos[start : start + 512]
        kernel = np.exp(np.float32((EARTH_RADIUS_KM / km) ** 2) * (vectors @ vectors[centres].T - 1))
        kernel *= area[:, None].astype(np.float32)
        mass += (kernel / kernel.sum(axis=0)) @ counts[centres].astype(np.float32)
    return mass


def spreads(places: Floats, count: int = 150) -> Iterator[tuple[int, float, float]]:
    """Per zoom, the deviation of logits among a tile's quarters, for features of places in it and of others."""
    from retrieval.priors.geoclip_models import LocationEncoder

    encoder = LocationEncoder.load("cpu")
    inside, outside = places[:count], places[count : 2 * count]
    features, others = (encoder.encode(*half.T) for half in (inside, outside))
    for zoom in (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16):
        parents = codes_at(inside[:, 1], inside[:, 0], zoom - 1)
        lng, lat = centres_of_codes(children_of_codes(parents, 1), zoom)
        vectors = encoder.encode(lat, lng).reshape(count, 4, -1)
        spread = [
            encoder.logit_scale * np.einsum("nkd,nd->nk", vectors, f).std(axis=1).mean() for f in (features, others)
        ]
        yield zoom, float(spread[0]), float(spread[1])


if __name__ == "__main__":
    main()
