"""One index as asked for, how it is coming along, and what came of it: plain data, nothing that acts."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from indexer.build.area import Area
from indexer.build.problems import ProblemCounts
from tile_cache.fetch.settings import FetchSettings

if TYPE_CHECKING:  # loads torch
    from retrieval.encoders.open_clip import EncodesPhotos, EncodesTiles

__all__ = ["SHARD_ROWS", "UNIT_ROWS", "BuildReport", "BuildRequest", "Encoders", "RowsRequest"]

UNIT_ROWS = 1024
"""Rows of one unit of embedding work."""

SHARD_ROWS = 262_144
"""Rows of one shard at most."""


@dataclass(frozen=True)
class BuildRequest:
    """One index, as asked for. `source` and `overlay` are what `open_source` takes; `cache` a file or folder for tiles.

    `calibration` is a calibration.json that goes into the index if it was fitted for what comes out. Rows a unit and
    rows a shard decide the bytes of an index, like everything here but `cache`, `fetch`, `device` and `threads`.
    """

    source: str
    out: Path
    zooms: tuple[int, ...]
    area: Area = field(default_factory=Area)
    overlay: str | None = None
    photo_encoder: str = "builtin"
    map_encoders: Path | None = None
    device: str = "auto"
    codec: str = "fp16"
    cache: Path | None = None
    fetch: FetchSettings = field(default_factory=FetchSettings)
    overwrite: bool = False
    calibration: Path | None = None
    unit_rows: int = UNIT_ROWS
    shard_rows: int = SHARD_ROWS
    threads: int | None = None


@dataclass(frozen=True)
class RowsRequest:
    """One index of rows, as asked for. `source`: one that knows where land is, which may thin the coverage; or None."""

    out: Path
    zooms: tuple[int, ...]
    area: Area = field(default_factory=Area)
    source: str | None = None
    overwrite: bool = False
    shard_rows: int = SHARD_ROWS


class Encoders(NamedTuple):
    """The photo encoder that an index is for, and the map encoders that make its vectors."""

    photo: "EncodesPhotos"
    maps: "EncodesTiles"


@dataclass
class BuildReport:
    """What came of it. `rows`, `vectors`, `inferred` per zoom; `encoded` pictures, `kept` rows found from before."""

    out: Path
    index_id: str
    rows: dict[int, int]
    vectors: dict[int, int]
    inferred: dict[int, int]
    already: bool = False
    encoded: int = 0
    kept: int = 0
    calibrated: bool = False
    problems: ProblemCounts = field(default_factory=ProblemCounts)
    fetches: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        examples = [p._asdict() for p in self.problems.examples]
        return asdict(self) | {"out": str(self.out), "problems": asdict(self.problems) | {"examples": examples}}
