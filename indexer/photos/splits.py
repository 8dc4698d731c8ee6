"""Split photos into train, validation and test, from their names, places and difference hashes alone.

Photos that must stay together (near-duplicates; with `geographic` also all photos of a zoom-8 tile) form groups. A
group's split depends on a hash of the group: it is the same for any order of the table, and rows that join other groups
do not change it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from indexer.errors import PhotoSetError
from indexer.photos.duplicates import components, near_duplicates
from indexer.photos.photo_set import SPLITS, PhotoSet
from tile_cache.addressing import codes_at

__all__ = ["SPLIT_ZOOM", "SplitPlan", "parse_ratio", "split"]

SPLIT_ZOOM = 8
"""Zoom of the tiles that a geographic split keeps whole; a tile is 157 km wide at the equator."""


@dataclass(frozen=True)
class SplitPlan:
    """How a set is split. Raises PhotoSetError for an invalid ratio."""

    ratio: tuple[int, int, int] = (10, 1, 1)
    """Shares of train, validation and test; 0 leaves one out. The default is the hierarchical-search paper's."""
    seed: int = 0
    """Seed of the hashes that decide the split."""
    geographic: bool = False
    """No zoom-8 tile has photos in two splits; near-duplicates in two tiles keep these tiles together."""
    near_duplicates: bool = True
    """Pictures whose difference hashes are at most 4 bits apart stay together, also through chains of such pairs."""

    def __post_init__(self) -> None:
        if len(self.ratio) != len(SPLITS) or min(self.ratio) < 0 or sum(self.ratio) <= 0:
            raise PhotoSetError(
                f"split ratio {self.ratio!r}: give three shares from 0, at least one above 0, such as (10, 1, 1)"
            )


def parse_ratio(text: str) -> tuple[int, int, int]:
    """Shares of train, validation and test from text such as 10:1:1. Raises ValueError if it is not three numbers."""
    try:
        train, validation, test = (int(share) for share in text.split(":"))
    except ValueError as exc:
        raise ValueError(f"{text!r}: give three whole numbers, such as 10:1:1") from exc
    return train, validation, test


def split(photos: PhotoSet, hashes: NDArray[np.uint64] | None, plan: SplitPlan = SplitPlan()) -> PhotoSet:
    """The same photos with `split` filled. `hashes`: (n,) uint64 difference hashes; None: ignore near-duplicates.

    The ratio holds over groups and in expectation; every split with a share gets at least one group. Raises
    PhotoSetError if there are fewer groups than splits.
    """
    groups = _groups(photos, hashes if plan.near_duplicates else None, plan.geographic)
    members, group = np.unique(groups, return_inverse=True)
    minimum = np.full(len(members), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(minimum, group, _own_hashes(photos, plan))
    chosen = _shares(_mixed(minimum), plan.ratio)
    names = np.array(SPLITS, dtype=object)[chosen][group]
    return replace(photos, split=tuple(names.tolist()))


def _groups(photos: PhotoSet, hashes: NDArray[np.uint64] | None, geographic: bool) -> NDArray[np.intp]:
    """The group of each photo, (n,), as the lowest row in it."""
    tiles, n = _tiles(photos), len(photos)
    a, b = (np.zeros(0, np.intp),) * 2 if hashes is None else near_duplicates(np.asarray(hashes, np.uint64), tiles)
    if geographic:
        _, first, inverse = np.unique(tiles, return_index=True, return_inverse=True)
        a, b = np.concatenate([a, np.arange(n)]), np.concatenate([b, first[inverse]])
    return components(n, a, b)


def _tiles(photos: PhotoSet) -> NDArray[np.uint64]:
    """The zoom-8 tile of each photo, (n,); each photo without a place gets its own number beyond all tiles."""
    tiles = np.arange(len(photos), dtype=np.uint64) + np.uint64(4**SPLIT_ZOOM)
    rows = np.flatnonzero(np.isfinite(photos.lng) & np.isfinite(photos.lat))
    tiles[rows] = codes_at(photos.lng[rows], photos.lat[rows], SPLIT_ZOOM)
    return tiles


def _own_hashes(photos: PhotoSet, plan: SplitPlan) -> NDArray[np.uint64]:
    """A seeded hash of each photo, (n,): of its name, or in a geographic split of its tile."""
    own: Sequence[str] = photos.names
    if plan.geographic:
        tiles = _tiles(photos).tolist()
        own = [f"tile {t}" if t < 4**SPLIT_ZOOM else name for t, name in zip(tiles, photos.names, strict=True)]
    key = str(plan.seed).encode()
    distinct = dict.fromkeys(own, b"")
    for text in distinct:
        distinct[text] = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8, key=key).digest()
    return np.frombuffer(b"".join([distinct[text] for text in own]), dtype="<u8").astype(np.uint64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser. The minimum of a large group's hashes is small; after mixing it is uniform again."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def _shares(values: NDArray[np.uint64], ratio: tuple[int, int, int]) -> NDArray[np.intp]:
    """The split of each group, (g,), from its hash; an empty split takes over the group with the nearest hash."""
    wanted = [i for i, share in enumerate(ratio) if share]
    if len(values) < len(wanted):
        raise PhotoSetError(
            f"{len(values):,} groups of photos that must stay together cannot fill {len(wanted)} splits: "
            "give more photos, leave out --geographic, or add a split column to the table"
        )
    at = values.astype(np.float64) / 2.0**64
    ends = np.cumsum(ratio) / sum(ratio)
    chosen = np.minimum(np.searchsorted(ends, at, side="right"), wanted[-1]).astype(np.intp)
    for empty in wanted:
        counts = np.bincount(chosen, minlength=len(SPLITS))
        if not counts[empty]:
            middle = ends[empty] - ratio[empty] / sum(ratio) / 2
            free = np.flatnonzero(counts[chosen] > 1)
            chosen[free[np.argmin(np.abs(at[free] - middle))]] = empty
    return chosen
