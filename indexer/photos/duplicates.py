"""Near-duplicate pictures by their difference hashes, for millions of rows in NumPy without comparing every pair.

Two hashes that are at most 4 bits apart agree in at least two of six bands of bits. So for each of the 15 pairs of
bands, hashes are sorted by those bits (20 to 22 of them), and only neighbours with equal bits are compared. Knows
nothing of files or splits.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["MAX_BITS", "components", "dhash", "near_duplicates"]

MAX_BITS = 4
"""Two pictures whose hashes differ in at most so many bits are near-duplicates."""

_BANDS = (11, 11, 11, 11, 10, 10)
_MIN_SET = 6
"""Hashes with fewer bits set, or fewer unset, belong to pictures with almost no structure: similar, but not copies."""
_MAX_NEIGHBOURS = 256
"""In a bucket with more hashes than this, each is compared with only so many neighbours, which bounds the time."""
_CROWD, _CROWD_SHARE = 100, 0.05
"""A chain of more pictures than both this number and this share of the set is a common look, not a set of copies."""
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)

Hashes = NDArray[np.uint64]
Rows = NDArray[np.intp]
Pairs = tuple[Rows, Rows]


def dhash(image: Image.Image) -> int:
    """A picture's difference hash: 64 bits that re-encoding, resizing and slight edits hardly change.

    Bit 8 y + x says whether, in the picture shrunk to 9 x 8 grey pixels, pixel (x + 1, y) is brighter than (x, y).
    """
    # Lanczos after a box filter to at least 36 x 32: halving a picture then flips 0.3 bits on average, and 1.6 with a
    # box filter alone.
    small = image.resize((9, 8), Image.Resampling.LANCZOS, reducing_gap=4.0).convert("L")
    grey: NDArray[np.uint8] = np.asarray(small)
    return int(_BITS[(grey[:, 1:] > grey[:, :-1]).ravel()].sum(dtype=np.uint64))


def near_duplicates(hashes: Hashes, places: NDArray[np.uint64]) -> Pairs:
    """Pairs (a, b) of rows, (m,) each, whose connected components are the sets of near-duplicates.

    `hashes`: (n,) uint64; `places`: (n,) uint64, equal for pictures taken at the same place (say, in one tile). Flat
    pictures are left out. A chain of near pairs may run through much of a set, because many horizons look alike. In
    such a chain, equal hashes still stay together, but near ones only if their places are equal. The components do not
    depend on the order of the rows.
    """
    ones = np.bitwise_count(hashes)
    rows = np.flatnonzero((ones >= _MIN_SET) & (ones <= 64 - _MIN_SET))
    a, b = _pairs(hashes[rows], np.zeros(len(rows), np.uint64))
    chain = components(len(rows), a, b)
    crowded = (np.bincount(chain, minlength=1) > max(_CROWD, _CROWD_SHARE * len(hashes)))[chain]
    certain = ~crowded[a] | (hashes[rows[a]] == hashes[rows[b]])
    crowd = np.flatnonzero(crowded)
    c, d = _pairs(hashes[rows[crowd]], places[rows[crowd]])
    return rows[np.concatenate([a[certain], crowd[c]])], rows[np.concatenate([b[certain], crowd[d]])]


def components(n: int, a: Rows, b: Rows) -> Rows:
    """Connected components of a graph of n rows with edges (a, b), (m,) each: the lowest row of each component, (n,).

    Each round lowers labels to the neighbour's, then replaces each label by its own label's label until nothing
    changes. Chains of near-duplicates need a few rounds, each over the edges whose ends still differ.
    """
    label = np.arange(n, dtype=np.intp)
    while len(a):
        low, high = np.minimum(label[a], label[b]), np.maximum(label[a], label[b])
        np.minimum.at(label, high, low)
        while not np.array_equal(jumped := label[label], label):
            label = jumped
        differ = label[a] != label[b]
        a, b = a[differ], b[differ]
    return label


def _pairs(hashes: Hashes, among: NDArray[np.uint64]) -> Pairs:
    """Pairs that chain equal and near hashes of rows with equal `among`; (n,) each."""
    order = np.lexsort((hashes, among))
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (np.diff(hashes[order]) != 0) | (np.diff(among[order]) != 0)
    first = order[new]  # one row stands for all rows with its hash
    pairs = [(first[np.cumsum(new) - 1], order)]
    pairs += [(first[a], first[b]) for a, b in _close(hashes[first], among[first])]
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return a[a != b], b[a != b]


def _close(hashes: Hashes, among: NDArray[np.uint64]) -> Iterator[Pairs]:
    """Pairs of positions of hashes at most MAX_BITS apart and equal in `among`; some occur more than once.

    `hashes`: (m,), distinct and ascending within each value of `among`.
    """
    label = np.unique(among, return_inverse=True)[1].astype(np.uint64) << np.uint64(sum(sorted(_BANDS)[-2:]))
    ends = np.cumsum(_BANDS)
    bands = [
        (hashes >> np.uint64(end - bits)) & np.uint64((1 << bits) - 1) for bits, end in zip(_BANDS, ends, strict=True)
    ]
    for first, second in combinations(bands, 2):
        key = label | first << np.uint64(max(_BANDS)) | second
        # Stable, so that equal keys stay ascending by hash: _MAX_NEIGHBOURS then cuts by content, not by row order.
        order = np.argsort(key, kind="stable")
        yield from _neighbours(key[order], hashes[order], order)


def _neighbours(key: Hashes, hashes: Hashes, order: Rows) -> Iterator[Pairs]:
    """Pairs of near hashes among neighbours with equal keys."""
    at = np.arange(len(key) - 1)
    for distance in range(1, _MAX_NEIGHBOURS + 1):
        at = at[: np.searchsorted(at, len(key) - distance)]
        at = at[key[at] == key[at + distance]]
        if not len(at):
            return
        near = at[np.bitwise_count(hashes[at] ^ hashes[at + distance]) <= MAX_BITS]
        yield order[near], order[near + distance]
