"""The search of `retrieval.search.beam.descend` for a batch of queries on one device, by gathers and matrix products.

It is written for CUDA and tested on CPU tensors against the FAISS lists; `benchmarks/gpu.py` measures it on a GPU. All
shapes depend on the number of queries and k alone, so nothing waits for the device until the results of all levels
come to the host in one copy. It knows no regions and no priors: `retrieval.locator` uses the lists for those.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.errors import QueryError
from retrieval.index.calibration import Calibration
from retrieval.index.reader import TileIndex
from retrieval.search.beam import Descent
from retrieval.search.gpu.index import DeviceIndex, DeviceLevel
from retrieval.search.gpu.posterior import best, share, with_neighbours
from retrieval.search.gpu.products import Queries, products, products_with_all, queries_of
from retrieval.search.gpu.results import LevelResult, pack, unpack
from retrieval.search.options import Scoring

SCRATCH_BYTES = {"cuda": 1 << 30, "cpu": 1 << 26}
"""By kind of device: limit for the vectors gathered at once, and for the candidates of all queries searched at once."""
_CANDIDATE_BYTES = 160
"""Memory that one candidate takes while its level is searched: index, code, cosine, masses and temporary copies."""


class _Beam(NamedTuple):
    """The tiles whose children are looked at next, (n, m). Unused places have vector -1 and no mass."""

    vectors: Tensor  # int64, numbers of the level's vectors
    log_mass: Tensor  # float64


class DeviceBeam:
    """A searchable copy of an index on a device. Threads may share it."""

    def __init__(self, index: DeviceIndex, calibration: Calibration) -> None:
        self.index, self.calibration = index, calibration
        self._scratch = SCRATCH_BYTES[index.device.type]

    @classmethod
    def of(
        cls, index: TileIndex, calibration: Calibration, device: torch.device, dtype: torch.dtype | None = None
    ) -> "DeviceBeam":
        """Copy an index to a device; raises DeviceMemoryError if it does not fit. `dtype`: see `DeviceIndex.of`."""
        scratch = 3 * SCRATCH_BYTES[device.type]
        return cls(DeviceIndex.of(index, device, dtype, scratch=scratch), calibration)

    def descend_batch(self, queries: NDArray[np.float32], k: int, scoring: Scoring = "posterior") -> list[Descent]:
        """One descent for each embedding, (n, d) float32, as `beam.descend` gives without region or prior.

        Beams are equal except for tiles whose scores differ from the k-th by no more than rounding. Raises QueryError
        if the index has no vector at its first zoom.
        """
        if not self.index.levels:
            raise QueryError("the index holds no vector at its first zoom, so it can answer nothing: build it again")
        descents: list[Descent] = []
        size = self.batch_size(k)
        with torch.inference_mode():
            for start in range(0, len(queries), size):
                batch = torch.from_numpy(np.ascontiguousarray(queries[start : start + size]))
                packed = self.search(batch.to(self.index.device), k, scoring).cpu().numpy()
                descents += unpack(self.index.levels, self._widths(k), packed, len(batch), self.calibration)
        return descents

    def batch_size(self, k: int) -> int:
        """The number of queries whose candidates at the widest level fit the scratch memory, at least 1."""
        widest = max(m * level.width for m, level in zip(self._widths(k), self.index.levels, strict=False))
        return max(1, self._scratch // (widest * _CANDIDATE_BYTES))

    def search(self, queries: Tensor, k: int, scoring: Scoring) -> Tensor:
        """Search all levels for (n, d) float32 queries on the device; returns bytes for `results.unpack`.

        Starts work on the device and does not wait for it.
        """
        compared = queries_of(queries, self.index.dtype)
        elsewhere = torch.zeros(len(queries), dtype=torch.float64, device=queries.device)
        results: list[LevelResult] = []
        beam: _Beam | None = None
        for level in self.index.levels:
            result, beam, level_elsewhere = self._level(level, compared, beam, k, scoring)
            elsewhere = elsewhere + level_elsewhere
            results.append(result)
        return pack(results, elsewhere)

    def _widths(self, k: int) -> list[int]:
        """The number of tiles above each level's candidates, then the size of the last beam: 1, then at most k."""
        widths = [1]
        for level in self.index.levels:
            widths.append(min(k, widths[-1] * level.width))
        return widths

    def _level(
        self, level: DeviceLevel, queries: Queries, above: _Beam | None, k: int, scoring: Scoring
    ) -> tuple[LevelResult, _Beam, Tensor]:
        """One level's result, the beam below it, and the mass that went elsewhere, (n,)."""
        if above is None:
            index, mask, log_mass, similarities = _first_level(level, queries)
        else:
            index, mask = _children(level, above)
            log_mass, similarities = above.log_mass, self._similarities(level, queries, index)
        numbers = self.calibration.numbers(level.level.zoom)
        scores = similarities
        if numbers.kappa:
            cosines, codes, flat = (v.flatten(1) for v in (similarities, level.codes[index], mask))
            scores = with_neighbours(cosines, codes, flat, level.level.zoom, numbers.kappa).view_as(similarities)
        shares = share(log_mass, scores, mask, numbers)
        flat_mass, flat_mask = shares.log_mass.flatten(1), mask.flatten(1)
        ranked = flat_mass if scoring == "posterior" else similarities.flatten(1)
        positions = best(ranked, flat_mask, k)
        unused, at = positions < 0, positions.clamp(min=0)
        index = index.flatten(1).masked_fill(~flat_mask, -1)
        beam = _Beam(
            index.gather(1, at).masked_fill(unused, -1), flat_mass.gather(1, at).masked_fill(unused, -torch.inf)
        )
        return LevelResult(index, similarities.flatten(1), flat_mass, positions), beam, shares.elsewhere

    def _similarities(self, level: DeviceLevel, queries: Queries, index: Tensor) -> Tensor:
        """Cosines of the candidates, (n, m, w), gathered in steps that fit the scratch memory."""
        n, m, w = index.shape
        step = max(1, self._scratch // (n * w * self.index.dim * 4))
        blocks = []
        for a in range(0, m, step):
            block = index[:, a : a + step].reshape(-1)
            vectors = level.vectors.index_select(0, block).view(n, -1, self.index.dim)
            blocks.append(products(vectors, queries).view(n, -1, w))
        return torch.cat(blocks, 1) if len(blocks) > 1 else blocks[0]


def _first_level(level: DeviceLevel, queries: Queries) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Index, mask, log mass and cosines of the first level: every vector is a candidate, under one tile of mass 1."""
    n, device = len(queries.whole), level.vectors.device
    index = torch.arange(len(level.vectors), device=device).expand(n, 1, -1)
    log_mass = torch.zeros((n, 1), dtype=torch.float64, device=device)
    similarities = products_with_all(level.vectors, queries)[:, None]
    return index, torch.ones_like(index, dtype=torch.bool), log_mass, similarities


def _children(level: DeviceLevel, beam: _Beam) -> tuple[Tensor, Tensor]:
    """The vectors beneath the beam's tiles, (n, m, w) int64, 0 where the mask (the same shape) is False."""
    above = beam.vectors.clamp(min=0)
    first, stop = level.starts[above], level.stops[above].masked_fill(beam.vectors < 0, 0)
    index = first[:, :, None] + torch.arange(level.width, device=first.device)
    mask = index < stop[:, :, None]
    # Masked places read vector 0 again and again: from the cache, not from memory.
    return index.masked_fill(~mask, 0), mask
