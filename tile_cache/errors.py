"""The errors of this package, as one tree.

TileCacheError
├── TileAddressError       a tile, zoom or coordinate that does not exist
├── SourceError            a source that cannot be opened or used
│   └── RefusedSourceError a source whose terms forbid bulk download
├── SourceUnavailableError a host or file that stopped answering; a later run resumes
└── StoreError             a tile store that is damaged, locked or of another kind
"""


class TileCacheError(Exception):
    """Base of this package's errors; the message names the value and the way out."""


class TileAddressError(TileCacheError, ValueError):
    """A tile, zoom, Morton code or coordinate outside the tile pyramid."""


class SourceError(TileCacheError):
    """A tile source that cannot be opened, or whose server refuses the requests."""


class RefusedSourceError(SourceError):
    """A tile source whose operator forbids bulk download."""


class SourceUnavailableError(TileCacheError):
    """A tile source that stopped answering. Stored tiles are kept, and a later run resumes."""


class StoreError(TileCacheError):
    """A tile store that is damaged, locked for too long, or a file of another kind."""
