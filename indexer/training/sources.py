"""The tiles that training needs, on this machine: local sources as they are, servers through the cache of fetched ones.

Only tiles that hold a photo are asked for, with what a margin needs of their neighbours.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.build.area import cache_file, open_cache, reach_of
from indexer.build.coverage import neighbours
from indexer.build.fetch import fetch_tiles
from indexer.errors import CoverageError
from indexer.progress import OnProgress, Progress
from indexer.training.request import TrainRequest
from tile_cache.mbtiles import TileStore
from tile_cache.open import open_source
from tile_cache.source import SourceInfo, TileSource
from tile_cache.xyz import XyzSource

__all__ = ["Local", "Sources"]

_FETCHED_AT_ONCE = 65_536


class Local(NamedTuple):
    """What can be read at once."""

    source: TileSource
    overlay: TileSource | None


@dataclass(frozen=True)
class Sources:
    """The source and the overlay of a request, as named; `local` opens what stands in for them."""

    request: TrainRequest
    source: TileSource | XyzSource
    overlay: TileSource | XyzSource | None

    @classmethod
    def of(cls, request: TrainRequest) -> "Sources":
        """Open both. Raises SourceError kinds, and CoverageError for a zoom that the source does not have."""
        overlay = None if request.overlay is None else open_source(request.overlay)
        made = cls(request, open_source(request.source), overlay)
        _check_zooms(request.settings.zooms, made.source.info)
        return made

    def identity(self) -> dict[str, str | None]:
        """What decides the tiles' pixels."""
        return {"source": self.source.info.identity, "overlay": self.overlay.info.identity if self.overlay else None}

    def fetch(self, codes: Mapping[int, NDArray[np.uint64]], tell: OnProgress) -> None:
        """Fetch what is missing of these tiles, Morton codes by zoom, and of their margins."""
        for server, is_overlay in ((self.source, False), (self.overlay, True)):
            if isinstance(server, XyzSource):
                self._fetch(server, is_overlay, codes, tell)

    @contextmanager
    def local(self) -> Iterator[Local]:
        """Both as sources that answer at once: of servers, what has been fetched."""
        with ExitStack() as stack:
            source = self._local(stack, self.source, overlay=False)
            yield Local(source, self._local(stack, self.overlay, overlay=True) if self.overlay else None)

    def close(self) -> None:
        """Let go of what is open."""
        for source in (self.source, self.overlay):
            if source is not None and not isinstance(source, XyzSource):
                source.close()

    def _local(self, stack: ExitStack, source: TileSource | XyzSource, *, overlay: bool) -> TileSource:
        if not isinstance(source, XyzSource):
            return source
        path = cache_file(self.request.tile_cache, source.info, overlay=overlay)
        return stack.enter_context(TileStore.open(path, source.info, read_only=True))

    def _fetch(
        self, server: XyzSource, overlay: bool, codes: Mapping[int, NDArray[np.uint64]], tell: OnProgress
    ) -> None:
        settings, info = self.request.settings, server.info
        chunks = []
        for z, some in codes.items():
            if info.min_zoom <= z <= info.max_zoom:
                wanted = np.unique(neighbours(some, z, reach_of(settings.margin(z))))
                chunks += [(z, wanted[i : i + _FETCHED_AT_ONCE]) for i in range(0, len(wanted), _FETCHED_AT_ONCE)]
        total, text = sum(len(c) for _, c in chunks), f"Fetching {info.name}"
        with open_cache(cache_file(self.request.tile_cache, info, overlay=overlay), info) as store:
            fetch_tiles(
                server,
                store,
                chunks,
                self.request.fetch,
                lambda r: tell(Progress("fetch", text, r.done, total)),
            )


def _check_zooms(zooms: tuple[int, ...], info: SourceInfo) -> None:
    for z in zooms:
        if z > info.max_zoom:
            raise CoverageError(f"{info.name} ends at zoom {info.max_zoom}; zoom {z} was asked for")
        if z < info.min_zoom:
            raise CoverageError(f"{info.name} begins at zoom {info.min_zoom}; zoom {z} was asked for")
