"""Neighbour means compared with a dictionary of columns and rows, also at the date line and the poles."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval.search.neighbours import neighbours_mean
from tile_cache.addressing import morton_decode


@st.composite
def candidates(draw: st.DrawFn) -> tuple[int, np.ndarray, np.ndarray]:
    """A zoom, ascending codes (crowded at coarse zooms, so that tiles are adjacent), and a cosine for each."""
    zoom = draw(st.integers(2, 16))
    corner = draw(st.sampled_from([0, max(0, 4**zoom - 64), 4**zoom // 2, 4**zoom // 3]))
    codes = draw(st.sets(st.integers(corner, min(corner + 63, 4**zoom - 1)) | st.integers(0, 4**zoom - 1), min_size=1))
    ascending = np.array(sorted(codes), dtype=np.uint64)
    seed = draw(st.integers(0, 2**32 - 1))
    return zoom, ascending, np.random.default_rng(seed).uniform(-1, 1, len(codes)).astype(np.float32)


@given(candidates())
def test_mean_equals_brute_force_over_neighbours(case: tuple[int, np.ndarray, np.ndarray]) -> None:
    zoom, codes, similarities = case
    x, y = (v.astype(int).tolist() for v in morton_decode(codes))
    value = dict(zip(zip(x, y, strict=True), similarities.tolist(), strict=True))
    around = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
    for column, row, mean, own in zip(x, y, neighbours_mean(codes, zoom, similarities), similarities, strict=True):
        found = [value[n] for a, b in around if (n := ((column + a) % 2**zoom, row + b)) in value]
        assert np.isclose(mean, np.mean(found) if found else own, atol=1e-5)
