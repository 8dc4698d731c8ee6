"""Groups of near-duplicate pictures by their difference hashes: millions of rows in NumPy, never every pair.

Two hashes at most 4 bits apart leave at least two of six bands of bits untouched. So for each of the 15 pairs of bands,
hashes are sorted by those bits (20 to 22 of them) and only neighbours with equal bits are compared. Knows nothing of
files or splits.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_BITS", "components", "near_duplicates"]

MOST_BITS = 4
"""Hamming distance of two hashes up to which their pictures count as near-duplicates."""

_BANDS = (11, 11, 11, 11, 10, 10)
_LEAST_SET = 6
"""Hashes with fewer bits set, or fewer unset, are of pictures with next to no structure: alike without being copies."""
_MOST_NEIGHBOURS = 256
"""In a bucket of more hashes than this, each is compared with so many next to it: pairs, not an answer, are bounded."""

Rows = NDArray[np.intp]


def near_duplicates(hashes: NDArray[np.uint64]) -> tuple[Rows, Rows]:
    """Pairs (a, b) of rows that connect all near-duplicates, (m,) each; `hashes`: (n,) uint64.

    Equal hashes are chained, not paired all with all. Flat pictures are left out. The pairs say the same of the same
    pictures in any order; which of a chain's ends are named may differ.
    """
    ones = np.bitwise_count(hashes)
    rows = np.flatnonzero((ones >= _LEAST_SET) & (ones <= 64 - _LEAST_SET))
    distinct, first, inverse = np.unique(hashes[rows], return_index=True, return_inverse=True)
    pairs = [(rows[first[inverse]], rows)]
    pairs += [(rows[first[a]], rows[first[b]]) for a, b in _close(distinct)]
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return a[a != b], b[a != b]


def components(n: int, a: Rows, b: Rows) -> Rows:
    """Connected components of a graph of n rows with edges (a, b), (m,) each: the least row of each, (n,).

    Labels fall to the least neighbour's and jump to their own label's label until nothing moves: O(log n) rounds for
    the short chains that near-duplicates make, each over all edges.
    """
    label = np.arange(n, dtype=np.intp)
    while len(a):
        low, high = np.minimum(label[a], label[b]), np.maximum(label[a], label[b])
        np.minimum.at(label, high, low)
        while (jumped := label[label]).tobytes() != label.tobytes():
            label = jumped
        open_ = label[a] != label[b]
        a, b = a[open_], b[open_]
    return label


def _close(hashes: NDArray[np.uint64]) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of positions in (n,) ascending distinct hashes that are at most MOST_BITS apart; some more than once."""
    starts = np.cumsum((0, *_BANDS[:-1]))
    masks = [((1 << bits) - 1) << int(start) for bits, start in zip(_BANDS, starts, strict=True)]
    for one, other in combinations(masks, 2):
        key = hashes & np.uint64(one | other)
        order = np.argsort(key, kind="stable")  # equal keys stay ascending by hash, so the bound above is of content
        yield from _neighbours(key[order], hashes[order], order)


def _neighbours(key: NDArray[np.uint64], hashes: NDArray[np.uint64], order: Rows) -> Iterator[tuple[Rows, Rows]]:
    at = np.arange(len(key) - 1)
    for distance in range(1, _MOST_NEIGHBOURS + 1):
        at = at[: np.searchsorted(at, len(key) - distance)]
        at = at[key[at] == key[at + distance]]
        if not len(at):
            return
        near = at[np.bitwise_count(hashes[at] ^ hashes[at + distance]) <= MOST_BITS]
        yield order[near], order[near + distance]
