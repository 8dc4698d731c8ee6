"""Pictures that stand at many places: `Repeats` counts them, in memory that does not grow with the number of tiles.

Servers answer "no data here" with a picture and status 200. Such a picture is the same, to the byte, at every place. So
is open sea, which is of one colour; `is_uniform` tells them apart. Knows nothing of where tiles come from.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tile_cache.addressing import Tile
from tile_cache.errors import SourceError
from tile_cache.images import MAX_TILE_BYTES, is_uniform
from tile_cache.regular_files import read_regular

__all__ = ["Repeated", "Repeats", "absent_images", "picture_hash"]

_CAPACITY = 4096
_SHOWN = 3
_LOOKED_AT = 50
_LEAST = 3
_LEAST_SHARE = 0.001

_HASH = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Repeated:
    """A picture, by the SHA-256 of its bytes, that stands at `count` of `tiles` tiles; `example` is one of them."""

    sha256: str
    count: int
    tiles: int
    example: Tile

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        z, x, y = self.example.z, self.example.x, self.example.y
        return {"sha256": self.sha256, "count": self.count, "tiles": self.tiles, "example": f"{z}/{x}/{y}"}


class Repeats:
    """Counts equal pictures by the algorithm of Misra and Gries.

    Holds at most 4,096 pictures. The count of a picture is at most a 4,096th of all tiles too low, so whatever stands
    at a larger share is never missed.
    """

    def __init__(self) -> None:
        self.tiles = 0
        self._counts: dict[str, tuple[int, Tile]] = {}

    def add(self, sha256: str, example: Tile, count: int = 1) -> None:
        """Count a picture at `count` more tiles."""
        self.tiles += count
        before, first = self._counts.get(sha256, (0, example))
        self._counts[sha256] = before + count, first
        if len(self._counts) > _CAPACITY:
            least = min(n for n, _ in self._counts.values())
            self._counts = {key: (n - least, tile) for key, (n, tile) in self._counts.items() if n > least}

    def often(
        self, read: Callable[[Tile], bytes | None], *, named: frozenset[str] = frozenset(), tiles: int | None = None
    ) -> tuple[Repeated, ...]:
        """The pictures at most tiles, up to 3, that are not of one colour, and all that are `named`.

        `read` gives a tile's bytes; `tiles`: what counts are a share of, the number of tiles counted unless given.
        """
        total = self.tiles if tiles is None else tiles
        return tuple(self._often(read, named, total))

    def _often(self, read: Callable[[Tile], bytes | None], named: frozenset[str], total: int) -> Iterator[Repeated]:
        shown = looked_at = 0
        for sha256, (count, example) in sorted(self._counts.items(), key=lambda item: -item[1][0]):
            if sha256 in named:
                yield Repeated(sha256, count, total, example)
            elif count >= max(_LEAST, _LEAST_SHARE * total) and shown < _SHOWN and looked_at < _LOOKED_AT:
                looked_at += 1
                data = read(example)
                if data is not None and picture_hash(data) == sha256 and not is_uniform(data):
                    shown += 1
                    yield Repeated(sha256, count, total, example)


def picture_hash(data: bytes) -> str:
    """The SHA-256 of a picture's bytes in hex, as `sha256sum` prints it."""
    return hashlib.sha256(data).hexdigest()


def absent_images(values: Iterable[str]) -> frozenset[str]:
    """Pictures that mean "no data here", each given as a file or as the SHA-256 of its bytes. Raises SourceError."""
    return frozenset(_hash_of(value.strip()) for value in values)


def _hash_of(value: str) -> str:
    if _HASH.fullmatch(value):
        return value.lower()
    try:
        data = read_regular(Path(value).expanduser(), MAX_TILE_BYTES)
    except (OSError, RuntimeError, ValueError) as exc:
        raise SourceError(
            f"{value!r} is neither a file that can be read nor a SHA-256 of 64 hex digits: name the picture that means"
            " that there is no data"
        ) from exc
    return picture_hash(data)
