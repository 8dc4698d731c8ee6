"""The tiles that an index covers, as ascending Morton codes: a region, zooms, and thinning by depth and by land.

A coverage is closed upward: every ancestor of a covered tile, at the indexed zooms, is covered. Tiles are found by
quadtree descent and handled as runs of codes. So a cell that lies wholly inside costs the same at zoom 4 and at
zoom 16, and memory holds no more than a block of boundary cells. The module knows regions and land, not pixels.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.errors import CoverageError
from retrieval.geo.region import OUTSIDE, PARTLY, WHOLLY, Region
from tile_cache.addressing import MAX_ZOOM, children_of_codes, morton_decode, morton_encode
from tile_cache.source import LandAware

__all__ = ["DEEP_ZOOM", "Coverage", "Land", "check_zooms", "codes_of_runs", "neighbours"]

DEEP_ZOOM = 10
"""From this zoom on, a coverage with a deep region covers only that region."""

_BLOCK = 1 << 15  # boundary cells descended at a time

Codes = NDArray[np.uint64]
Runs = NDArray[np.uint64]
"""(n, 2) uint64: first code and the code after the last one, of ascending runs that do not touch."""


@dataclass(frozen=True)
class Land:
    """Keep tiles with at least `fraction` of land, and their ancestors.

    `source` must be consistent: descendants of a tile without land have none, and those of a tile all of land are
    all land.
    """

    source: LandAware
    fraction: float
    identity: str

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise CoverageError(f"land fraction {self.fraction!r} must be above 0 and at most 1; 0 covers all tiles")


@dataclass(frozen=True, eq=False)
class Coverage:
    """The tiles of an index. From zoom 10 on `deep` replaces `region`; `Coverage.of` cuts it to lie inside `region`."""

    zooms: tuple[int, ...]
    region: Region
    deep: Region | None = None
    land: Land | None = None

    @classmethod
    def of(
        cls, zooms: Sequence[int], region: Region, *, deep: Region | None = None, land: Land | None = None
    ) -> "Coverage":
        """A checked coverage. Raises CoverageError for zooms out of order, RegionError if regions share no area."""
        inner = None if deep is None else region.intersection(deep, f"the region for zooms from {DEEP_ZOOM} on")
        return cls(check_zooms(zooms), region, inner, land)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences for people about how the regions were interpreted."""
        return tuple(dict.fromkeys((*self.region.notes, *(self.deep.notes if self.deep else ()))))

    @property
    def identity(self) -> str:
        """A hash of everything that decides which tiles are covered."""
        text = json.dumps(
            {
                "zooms": self.zooms,
                "region": self.region.identity,
                "deep": self.deep.identity if self.deep else None,
                "land": [self.land.fraction, self.land.identity] if self.land else None,
            },
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def geojson(self) -> dict[str, Any]:
        """The region as a GeoJSON Feature; its properties hold the zooms, the land fraction and the deep region."""
        properties: dict[str, Any] = {"zooms": list(self.zooms)}
        if self.land is not None:
            properties["land"] = self.land.fraction
        if self.deep is not None:
            properties["deep"] = {"from_zoom": DEEP_ZOOM, "geometry": self.deep.geojson}
        return {"type": "Feature", "geometry": self.region.geojson, "properties": properties}

    def count(self, z: int, reach: int = 0) -> int:
        """The number of tiles of zoom `z` that are covered or lie within `reach` tiles of a covered one."""
        return sum(int((runs[:, 1] - runs[:, 0]).sum()) for runs in self.runs(z, reach))

    def counts(self) -> dict[int, int]:
        """Covered tiles of each zoom. Raises CoverageError if a zoom has none."""
        counts = {z: self.count(z) for z in self.zooms}
        for z, n in counts.items():
            if n == 0:
                raise CoverageError(f"the coverage holds no tile at zoom {z}: take a larger area, or --land 0")
        return counts

    def chunks(self, z: int, reach: int = 0, size: int = 65_536) -> Iterator[Codes]:
        """The tiles that `count` counts, as ascending codes in arrays of at most `size`, uint64."""
        return codes_of_runs(self.runs(z, reach), size)

    def runs(self, z: int, reach: int = 0) -> Iterator[Runs]:
        """The tiles that `count` counts, as ascending runs of codes in blocks of (n, 2) uint64."""
        if z not in self.zooms:
            raise CoverageError(f"zoom {z} is not among the indexed zooms {list(self.zooms)}")
        root = np.zeros(1, dtype=np.uint64)
        return self._descend(root, np.zeros((0, 2), dtype=np.uint64), 0, z, reach)

    def covers(self, codes: Codes, z: int) -> NDArray[np.bool_]:
        """Whether tiles of zoom `z` are covered, (n,) uint64 to (n,) bool; needs no descent from the top."""
        covered: NDArray[np.bool_] = self._cells(codes, z, z) != OUTSIDE
        covered[covered] = self._has_land(codes[covered], z)
        return covered

    def _descend(self, cells: Codes, inside: Runs, z: int, target: int, reach: int) -> Iterator[Runs]:
        """Runs at zoom `target` below `cells` of zoom `z`, which lie partly inside, merged with the runs `inside`."""
        blocks = [inside]
        while z < target and len(cells) <= _BLOCK:
            cells, z = children_of_codes(cells, 1), z + 1
            state = self._near(cells, z, target, reach)
            blocks.append(_runs_of(cells[state == WHOLLY], target - z))
            cells = cells[state == PARTLY]
        inside = _sorted(blocks)
        if z == target:
            boundary = cells[self._near_covered(cells, target, reach)] if len(cells) else cells
            yield _merged(_sorted([inside, _runs_of(boundary, 0)]))
            return
        for some_cells, some_runs in _split(cells, inside, target - z):
            yield from self._descend(some_cells, some_runs, z, target, reach)

    def _region(self, z: int) -> Region:
        return self.deep if self.deep is not None and z >= DEEP_ZOOM else self.region

    def _cells(self, codes: Codes, z: int, target: int) -> NDArray[np.uint8]:
        """Whether cells of zoom `z` are OUTSIDE, PARTLY or WHOLLY covered at zoom `target`; does not descend."""
        state = self._region(target).classify(codes, z)
        if self.land is not None:
            land = self.land.source.land_fraction(codes, z)
            state[land <= 0] = OUTSIDE
            state[(state == WHOLLY) & (land < 1)] = PARTLY
        return state

    def _near(self, codes: Codes, z: int, target: int, reach: int) -> NDArray[np.uint8]:
        """Like `_cells`, for the coverage widened by `reach` tiles."""
        if reach == 0:
            return self._cells(codes, z, target)
        around, index = np.unique(neighbours(codes, z, reach), return_inverse=True)
        state = self._cells(around, z, target)[index.reshape(len(codes), (2 * reach + 1) ** 2)]
        own = state[:, state.shape[1] // 2]
        return np.where(own == WHOLLY, WHOLLY, np.minimum(state.max(axis=1), PARTLY)).astype(np.uint8)

    def _near_covered(self, codes: Codes, z: int, reach: int) -> NDArray[np.bool_]:
        if reach == 0:
            return self._has_land(codes, z)
        around, index = np.unique(neighbours(codes, z, reach), return_inverse=True)
        return np.asarray(
            self.covers(around, z)[index.reshape(len(codes), (2 * reach + 1) ** 2)].any(axis=1), dtype=np.bool_
        )

    def _has_land(self, codes: Codes, z: int) -> NDArray[np.bool_]:
        """Whether tiles inside the region have enough land, or a descendant at an indexed zoom that has."""
        if self.land is None:
            return np.ones(len(codes), dtype=np.bool_)
        enough = np.asarray(self.land.source.land_fraction(codes, z) >= self.land.fraction)
        deeper = [d for d in self.zooms if d > z]
        if deeper and not enough.all():
            enough[~enough] = self._beneath(codes[~enough], z, deeper[0])
        return enough

    def _beneath(self, codes: Codes, z: int, below: int) -> NDArray[np.bool_]:
        """Whether tiles of zoom `z` have a covered descendant at zoom `below`; works on a few tiles at a time."""
        covered = np.zeros(len(codes), dtype=np.bool_)
        step = below - z
        size = max(1, _BLOCK >> (2 * step))
        for start in range(0, len(codes), size):
            children = children_of_codes(codes[start : start + size], step)
            covered[start : start + size] = self.covers(children, below).reshape(-1, 4**step).any(axis=1)
        return covered


def check_zooms(zooms: Sequence[int]) -> tuple[int, ...]:
    """Check the zooms of an index; returns them as a tuple. Raises CoverageError unless they ascend."""
    if not zooms:
        raise CoverageError("no zooms: give a list such as 4,6,8")
    for z in zooms:
        if isinstance(z, bool) or not isinstance(z, int | np.integer) or not 0 <= z <= MAX_ZOOM:
            raise CoverageError(f"zoom {z!r} is not a whole number from 0 to {MAX_ZOOM}")
    for a, b in pairwise(zooms):
        if b <= a:
            raise CoverageError(f"zooms {','.join(map(str, zooms))} must ascend: {b} follows {a}")
    return tuple(int(z) for z in zooms)


def neighbours(codes: Codes, z: int, reach: int) -> Codes:
    """Every tile within `reach` columns and rows: (n,) to (n, (2 reach + 1)^2) uint64, row by row from the north-west.

    Columns wrap at the date line; rows beyond a pole repeat the last row, so a tile may occur twice.
    """
    x, y = (v.astype(np.int64) for v in morton_decode(codes))
    steps = np.arange(-reach, reach + 1)
    columns = (x[:, None, None] + steps[None, None, :]) % (1 << z)
    rows = np.clip(y[:, None, None] + steps[None, :, None], 0, (1 << z) - 1)
    columns, rows = (np.broadcast_to(v, (len(x), len(steps), len(steps))).reshape(-1) for v in (columns, rows))
    return morton_encode(columns.astype(np.uint32), rows.astype(np.uint32)).reshape(len(x), len(steps) ** 2)


def codes_of_runs(blocks: Iterable[Runs], size: int) -> Iterator[Codes]:
    """The codes in runs, at most `size` at a time, so that a run of billions costs no memory."""
    for runs in blocks:
        lengths = runs[:, 1] - runs[:, 0]
        ends = np.cumsum(lengths)
        for start in range(0, int(ends[-1]) if len(ends) else 0, size):
            place = np.arange(start, min(start + size, int(ends[-1])), dtype=np.uint64)
            run = np.searchsorted(ends, place, side="right")
            yield runs[run, 0] + (place - (ends[run] - lengths[run]))


def _runs_of(cells: Codes, step: int) -> Runs:
    """Each cell as the run of its descendants `step` zooms deeper."""
    shift = np.uint64(2 * step)
    return np.stack([cells << shift, (cells + np.uint64(1)) << shift], axis=1)


def _sorted(blocks: Sequence[Runs]) -> Runs:
    runs = np.concatenate(blocks)
    return runs[np.argsort(runs[:, 0], kind="stable")]


def _merged(runs: Runs) -> Runs:
    """Join ascending runs that touch."""
    if len(runs) == 0:
        return runs
    apart = runs[1:, 0] != runs[:-1, 1]
    return np.stack([runs[np.r_[True, apart], 0], runs[np.r_[apart, True], 1]], axis=1)


def _split(cells: Codes, inside: Runs, step: int) -> Iterator[tuple[Codes, Runs]]:
    """Split cells and runs into smaller blocks that follow each other in Morton order."""
    size = _BLOCK // 4
    starts = range(0, len(cells), size)
    edges = np.searchsorted(inside[:, 0], np.array([cells[s] for s in starts]) << np.uint64(2 * step))
    edges[0] = 0
    for start, low, high in zip(starts, edges, [*edges[1:], len(inside)], strict=True):
        yield cells[start : start + size], inside[low:high]
