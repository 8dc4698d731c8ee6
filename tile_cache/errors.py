"""Everything that can go wrong with tiles, as one tree.

TileCacheError
├── TileAddressError       a tile, zoom or coordinate that does not exist
├── SourceError            a source that cannot be used as it was named
│   └── RefusedSourceError a source whose terms forbid fetching in bulk
├── SourceUnavailableError a host or file that stopped answering; resumable
└── StoreError             a tile store that is damaged, locked or no tile store
"""


class TileCacheError(Exception):
    """Base of this package's errors; the message names the value and the way out."""


class TileAddressError(TileCacheError, ValueError):
    """A tile, zoom, Morton code or coordinate outside what the tile pyramid has."""


class SourceError(TileCacheError):
    """A tile source that cannot be opened as it was named."""


class RefusedSourceError(SourceError):
    """A tile source whose operator forbids fetching in bulk."""


class SourceUnavailableError(TileCacheError):
    """A tile source that stopped answering; what was kept stays, and a later run goes on."""


class StoreError(TileCacheError):
    """A tile store that is damaged, locked for too long, or something else altogether."""
