"""The beam of `beam.descend` for a batch of queries on one device: gather and product, without waiting in between.

Written for CUDA and the same on CPU tensors, where it is tested against the FAISS lists; it had not run on a CUDA
device when it was written (`benchmarks/gpu.py` is what measures it there). All shapes depend on (n, k) alone, so a
whole descent can be captured in a CUDA graph; what it found goes to the host in one copy. Bounding boxes are not
searched here: `locator` takes the lists for them.
"""

import logging
import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.errors import QueryError
from retrieval.index.calibration import Calibration
from retrieval.index.reader import TileIndex
from retrieval.search.beam import Descent
from retrieval.search.gpu.graph import Captured
from retrieval.search.gpu.index import DeviceIndex, DeviceLevel
from retrieval.search.gpu.posterior import best, share, with_neighbours
from retrieval.search.gpu.products import Queries, products, products_with_all, queries_of
from retrieval.search.gpu.results import Found, pack, unpack
from retrieval.search.query import Scoring

SCRATCH_BYTES = {"cuda": 1 << 30, "cpu": 1 << 26}
"""What a search may gather at once, and hold of candidates at once, by kind of device."""
_CANDIDATE_BYTES = 160
"""What a candidate takes while its level is searched: index, code, cosine, masses, and what they are made of."""
_GRAPHS_KEPT = 8
_log = logging.getLogger("tilebeam.retrieval")


class _Kept(NamedTuple):
    """The tiles that a level's children are looked for under, (n, m); vector -1 and no mass where there is none."""

    vectors: Tensor  # int64: which of the level's vectors
    log_mass: Tensor  # float64


class DeviceBeam:
    """A searchable copy of an index on a device. Safe to share by threads."""

    def __init__(
        self, index: DeviceIndex, calibration: Calibration, *, graphs: bool = False, gather_bytes: int | None = None
    ) -> None:
        """`gather_bytes`: vectors copied together before they are multiplied; None is all the scratch memory."""
        self.index, self.calibration = index, calibration
        self._scratch = SCRATCH_BYTES[index.device.type]
        self._gather_bytes = gather_bytes or self._scratch
        self._graphs: OrderedDict[tuple[int, int, Scoring], Captured] | None = OrderedDict() if graphs else None
        self._lock = threading.Lock()

    @classmethod
    def of(
        cls,
        index: TileIndex,
        calibration: Calibration,
        device: torch.device,
        dtype: torch.dtype | None = None,
        *,
        graphs: bool = False,
    ) -> "DeviceBeam":
        """Copy an index to a device and make it searchable; raises DeviceMemoryError if it does not fit.

        `dtype`: see `DeviceIndex.of`; `graphs`: capture each shape of search in a CUDA graph and replay it.
        """
        scratch = 3 * SCRATCH_BYTES[device.type]
        return cls(DeviceIndex.of(index, device, dtype, scratch=scratch), calibration, graphs=graphs)

    def descend_batch(self, queries: NDArray[np.float32], k: int, scoring: Scoring = "posterior") -> list[Descent]:
        """What `beam.descend` finds for each embedding, (n, d) float32, without bounding box; its errors too.

        Kept sets are equal but for tiles whose scores are as near to the k-th as rounding may move them.
        """
        if not self.index.levels:
            raise QueryError("the index holds no vector at its first zoom, so it can answer nothing: build it again")
        found: list[Descent] = []
        size = self.batch_size(k)
        with torch.inference_mode():
            for start in range(0, len(queries), size):
                part = torch.from_numpy(np.ascontiguousarray(queries[start : start + size]))
                found += self._descents(part, k, scoring)
        return found

    def batch_size(self, k: int) -> int:
        """The most queries that are searched at once, for their candidates to stay within the scratch memory."""
        most = max(m * level.width for m, level in zip(self._widths(k), self.index.levels, strict=False))
        return max(1, self._scratch // (most * _CANDIDATE_BYTES))

    def search(self, queries: Tensor, k: int, scoring: Scoring) -> Tensor:
        """Everything that runs on the device, for (n, d) float32 there: what `pack` made of all levels, bytes.

        Starts work and waits for none of it.
        """
        asked = queries_of(queries, self.index.dtype)
        elsewhere = torch.zeros(len(queries), dtype=torch.float64, device=queries.device)
        levels: list[Found] = []
        kept: _Kept | None = None
        for level in self.index.levels:
            found, kept, nowhere = self._level(level, asked, kept, k, scoring)
            elsewhere = elsewhere + nowhere
            levels.append(found)
        return pack(levels, elsewhere)

    def _descents(self, part: Tensor, k: int, scoring: Scoring) -> list[Descent]:
        n, device = len(part), self.index.device
        if self._graphs is None or device.type != "cuda":
            packed = self.search(part.to(device), k, scoring).cpu()
        else:
            n = 1 << (len(part) - 1).bit_length()  # few shapes, each captured once
            with self._lock:
                packed = self._captured(n, k, scoring)(part).cpu()
        return unpack(self.index.levels, self._widths(k), packed.numpy(), n, self.calibration)[: len(part)]

    def _captured(self, n: int, k: int, scoring: Scoring) -> Captured:
        assert self._graphs is not None
        key = (n, k, scoring)
        if key not in self._graphs:
            _log.info("capturing a search for %d queries, k = %d, by %s", *key)
            blank = torch.zeros((n, self.index.dim), device=self.index.device)
            self._graphs[key] = Captured(lambda queries: self.search(queries, k, scoring), blank)
        self._graphs.move_to_end(key)
        while len(self._graphs) > _GRAPHS_KEPT:
            self._graphs.popitem(last=False)
        return self._graphs[key]

    def _widths(self, k: int) -> list[int]:
        """How many tiles each level's candidates lie under, and last how many are kept: 1, then at most k."""
        widths = [1]
        for level in self.index.levels:
            widths.append(min(k, widths[-1] * level.width))
        return widths

    def _level(
        self, level: DeviceLevel, asked: Queries, kept: _Kept | None, k: int, scoring: Scoring
    ) -> tuple[Found, _Kept, Tensor]:
        if kept is None:
            index, mask, log_mass, similarities = _all(level, asked)
        else:
            index, mask = _children(level, kept)
            log_mass, similarities = kept.log_mass, self._similarities(level, asked, index)
        numbers = self.calibration.numbers(level.level.zoom)
        scores = similarities
        if numbers.kappa:
            cosines, codes, there = (v.flatten(1) for v in (similarities, level.codes[index], mask))
            scores = with_neighbours(cosines, codes, there, level.level.zoom, numbers.kappa).view_as(similarities)
        shares = share(log_mass, scores, mask, numbers)
        flat_mass, flat_mask = shares.log_mass.flatten(1), mask.flatten(1)
        ranked = flat_mass if scoring == "posterior" else similarities.flatten(1)
        places = best(ranked, flat_mask, k)
        none = places < 0
        at = places.clamp(min=0)
        index = index.flatten(1).masked_fill(~flat_mask, -1)
        below = _Kept(index.gather(1, at).masked_fill(none, -1), flat_mass.gather(1, at).masked_fill(none, -torch.inf))
        return Found(index, similarities.flatten(1), flat_mass, places), below, shares.elsewhere

    def _similarities(self, level: DeviceLevel, asked: Queries, index: Tensor) -> Tensor:
        """Cosines of the candidates, (n, m, w), gathered within the scratch memory."""
        n, m, w = index.shape
        step = max(1, self._gather_bytes // (n * w * self.index.dim * 4))
        parts = []
        for a in range(0, m, step):
            which = index[:, a : a + step].reshape(-1)
            parts.append(
                products(level.vectors.index_select(0, which).view(n, -1, self.index.dim), asked).view(n, -1, w)
            )
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _all(level: DeviceLevel, asked: Queries) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first level: every vector is a candidate, under one tile that has all the mass."""
    n, device = len(asked.whole), level.vectors.device
    index = torch.arange(len(level.vectors), device=device).expand(n, 1, -1)
    log_mass = torch.zeros((n, 1), dtype=torch.float64, device=device)
    return index, torch.ones_like(index, dtype=torch.bool), log_mass, products_with_all(level.vectors, asked)[:, None]


def _children(level: DeviceLevel, kept: _Kept) -> tuple[Tensor, Tensor]:
    """The vectors beneath the kept tiles, (n, m, w) int64 with 0 where there is none, and where there are such."""
    above = kept.vectors.clamp(min=0)
    first, last = level.starts[above], level.stops[above].masked_fill(kept.vectors < 0, 0)
    index = first[:, :, None] + torch.arange(level.width, device=first.device)
    mask = index < last[:, :, None]
    # Where there is none the first vector is read, over and over: from the cache, not from memory.
    return index.masked_fill(~mask, 0), mask
