"""Near-duplicate pictures by their difference hashes: millions of rows in NumPy, never every pair.

Two hashes at most 4 bits apart leave at least two of six bands of bits untouched. So for each of the 15 pairs of bands,
hashes are sorted by those bits (20 to 22 of them) and only neighbours with equal bits are compared. Knows nothing of
files or splits.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["MOST_BITS", "components", "dhash", "near_duplicates"]

MOST_BITS = 4
"""Hamming distance of two hashes up to which their pictures count as near-duplicates."""

_BANDS = (11, 11, 11, 11, 10, 10)
_LEAST_SET = 6
"""Hashes with fewer bits set, or fewer unset, are of pictures with next to no structure: alike without being copies."""
_MOST_NEIGHBOURS = 256
"""In a bucket of more hashes than this, each is compared with so many next to it: time, not an answer, is bounded."""
_CROWD, _CROWD_SHARE = 100, 0.05
"""From how many pictures on, and from which share of the set, a chain is a common look and no copies."""

Hashes = NDArray[np.uint64]
Rows = NDArray[np.intp]
Pairs = tuple[Rows, Rows]


def near_duplicates(hashes: Hashes, places: NDArray[np.uint64]) -> Pairs:
    """Pairs (a, b) of rows, (m,) each, that chain all near-duplicates; `hashes` and `places`: (n,) uint64.

    A chain may run through a whole set: A is near B, B near C, and horizons are like horizons. Where it does, equal
    hashes still belong together, but near ones only if their pictures were taken at the same of `places` (say, in one
    tile). Flat pictures are left out. The chains are the same in any order of the rows.
    """
    ones = np.bitwise_count(hashes)
    rows = np.flatnonzero((ones >= _LEAST_SET) & (ones <= 64 - _LEAST_SET))
    a, b = _pairs(hashes[rows], np.zeros(len(rows), np.uint64))
    chain = components(len(rows), a, b)
    crowded = (np.bincount(chain, minlength=1) > max(_CROWD, _CROWD_SHARE * len(hashes)))[chain]
    calm = ~crowded[a] | (hashes[rows[a]] == hashes[rows[b]])
    within = np.flatnonzero(crowded)
    c, d = _pairs(hashes[rows[within]], places[rows[within]])
    return rows[np.concatenate([a[calm], within[c]])], rows[np.concatenate([b[calm], within[d]])]


def components(n: int, a: Rows, b: Rows) -> Rows:
    """Connected components of a graph of n rows with edges (a, b), (m,) each: the least row of each, (n,).

    Labels fall to the least neighbour's and jump to their own label's label until nothing moves: a few rounds for
    chains as near-duplicates make them, each over the edges that are still open.
    """
    label = np.arange(n, dtype=np.intp)
    while len(a):
        low, high = np.minimum(label[a], label[b]), np.maximum(label[a], label[b])
        np.minimum.at(label, high, low)
        while not np.array_equal(jumped := label[label], label):
            label = jumped
        still = label[a] != label[b]
        a, b = a[still], b[still]
    return label


def _pairs(hashes: Hashes, among: NDArray[np.uint64]) -> Pairs:
    """Pairs that chain equal hashes and near ones, of rows that are equal in `among`; (n,) each."""
    order = np.lexsort((hashes, among))
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (np.diff(hashes[order]) != 0) | (np.diff(among[order]) != 0)
    first = order[new]  # one row stands for all with its hash
    found = [(first[np.cumsum(new) - 1], order)]
    found += [(first[a], first[b]) for a, b in _close(hashes[first], among[first])]
    a, b = (np.concatenate(side) for side in zip(*found, strict=True))
    return a[a != b], b[a != b]


def _close(hashes: Hashes, among: NDArray[np.uint64]) -> Iterator[Pairs]:
    """Pairs of positions of hashes at most MOST_BITS apart, equal in `among`, some more than once.

    `hashes`: (m,), distinct and ascending within each of `among`.
    """
    label = np.unique(among, return_inverse=True)[1].astype(np.uint64) << np.uint64(sum(sorted(_BANDS)[-2:]))
    ends = np.cumsum(_BANDS)
    bands = [
        (hashes >> np.uint64(end - bits)) & np.uint64((1 << bits) - 1) for bits, end in zip(_BANDS, ends, strict=True)
    ]
    for one, other in combinations(bands, 2):
        key = label | one << np.uint64(max(_BANDS)) | other
        order = np.argsort(key, kind="stable")  # equal keys stay ascending by hash, so the bound above is of content
        yield from _neighbours(key[order], hashes[order], order)


def _neighbours(key: Hashes, hashes: Hashes, order: Rows) -> Iterator[Pairs]:
    """Pairs among those next to each other with equal keys."""
    at = np.arange(len(key) - 1)
    for distance in range(1, _MOST_NEIGHBOURS + 1):
        at = at[: np.searchsorted(at, len(key) - distance)]
        at = at[key[at] == key[at + distance]]
        if not len(at):
            return
        near = at[np.bitwise_count(hashes[at] ^ hashes[at + distance]) <= MOST_BITS]
        yield order[near], order[near + distance]


_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def dhash(image: Image.Image) -> int:
    """Bit 8 y + x says whether, in the picture shrunk to 9 x 8 greys, pixel (x + 1, y) is brighter than (x, y)."""
    # Lanczos after a box to at least 36 x 32: halving a picture then turns 0.3 bits on average, with a box alone 1.6.
    small = image.resize((9, 8), Image.Resampling.LANCZOS, reducing_gap=4.0).convert("L")
    grey: NDArray[np.uint8] = np.asarray(small)
    return int(_BITS[(grey[:, 1:] > grey[:, :-1]).ravel()].sum(dtype=np.uint64))
