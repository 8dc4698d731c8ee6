"""A build as plain data: what to build, and what came of it. Loads no encoder and no FAISS."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from indexer.build.area import Area
from indexer.build.decode import NO_IMAGERY, TileProblem
from indexer.errors import BuildError
from retrieval.encoders.base import EncodesPhotos, EncodesTiles, check_device_name
from retrieval.index.manifest import CODECS, PICTURES
from tile_cache.fetch.settings import FetchSettings

__all__ = ["SHARD_ROWS", "UNIT_ROWS", "BuildReport", "BuildRequest", "Encoders", "ProblemCounts", "TileRequest"]

UNIT_ROWS = 1024
"""Rows of one unit of embedding work."""

SHARD_ROWS = 262_144
"""Rows of one shard at most."""

_EXAMPLES = 10  # problems that a report quotes


@dataclass(frozen=True, kw_only=True)
class TileRequest:
    """Tiles of a source and the encoders that they are for: what planning, fetching and building have in common."""

    source: str | None = None
    """Where tiles come from: bluemarble, a folder, an .mbtiles file, a URL template or a name of xyzservices."""
    overlay: str | None = None
    """A second source, drawn over the first: labels, borders."""
    zooms: tuple[int, ...]
    """Zoom levels, ascending."""
    area: Area = field(default_factory=Area)
    """The area to cover."""
    cache: Path | None = None
    """File (.mbtiles) or folder for fetched tiles; by default in your cache folder."""
    photo_encoder: str = "builtin"
    """builtin, MODEL:TAG, MODEL:FILE, hf-hub:NAME or a folder."""
    map_encoders: Path | None = None
    """A folder that `tilebeam train` wrote; without it, the photo encoder embeds tiles, too."""
    codec: str = "fp16"
    """Number format of stored vectors: fp16 or fp32."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self) -> None:
        """Raise BuildError or EncoderError for a codec or device that does not exist."""
        if self.codec not in CODECS:
            raise BuildError(f"unknown codec {self.codec!r}: use {' or '.join(CODECS)}")
        check_device_name(self.device)


@dataclass(frozen=True, kw_only=True)
class BuildRequest(TileRequest):
    """One index. Every field but `cache`, `device`, `fetch`, `overwrite` and `threads` decides the index's bytes.

    So do two fields of `fetch`: `absent_images`, and `absent_statuses` for a server. `pictures` stands in the manifest
    and is not part of the index's id.
    """

    out: Path
    """The index directory to create."""
    fetch: FetchSettings = field(default_factory=FetchSettings)
    """How to fetch from servers."""
    overwrite: bool = False
    """Replace another index at --out."""
    rows_only: bool = False
    """Write tiles without vectors, in seconds; a prior then answers. Needs --source only for --land."""
    pictures: str | None = None
    """Where its pictures are taken from: above or ground; by default above for the built-in encoder."""
    calibration: Path | None = None
    """A calibration.json to add if it was fitted for this index; by default the built-in encoders' own."""
    unit_rows: int = UNIT_ROWS
    """Rows of one unit of embedding work."""
    shard_rows: int = SHARD_ROWS
    """Rows of one shard at most."""
    threads: int | None = None
    """Threads that decode and compose tiles; by default one for each core."""

    def __post_init__(self) -> None:
        """Raise BuildError or EncoderError for a codec, device or kind of pictures that does not exist."""
        super().__post_init__()
        if self.pictures not in (None, *PICTURES):
            raise BuildError(f"unknown pictures {self.pictures!r}: use {' or '.join(PICTURES)}")


class Encoders(NamedTuple):
    """The photo encoder that an index is for, and the map encoders that make its vectors."""

    photo: EncodesPhotos
    maps: EncodesTiles


@dataclass
class ProblemCounts:
    """`missing`: rows without imagery; `broken`: tiles of source or overlay that exist but are not images."""

    missing: int = 0
    broken: int = 0
    examples: list[TileProblem] = field(default_factory=list)

    def add(self, problem: TileProblem) -> None:
        """Count a problem, and keep it as an example if it is among the first."""
        if problem.reason == NO_IMAGERY:
            self.missing += 1
        else:
            self.broken += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(problem)


@dataclass
class BuildReport:
    """The result of a build. `rows`, `vectors` and `inferred` (means of children) are per zoom.

    `already`: the index existed; `encoded`: distinct pictures encoded; `kept`: rows embedded by an earlier attempt;
    `fetches`: a summary for each server; `repeated`: pictures that stand at many tiles; `absent_images`: those that
    were named as absent.
    """

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
    repeated: list[dict[str, Any]] = field(default_factory=list)
    absent_images: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        examples = [p._asdict() for p in self.problems.examples]
        return asdict(self) | {"out": str(self.out), "problems": asdict(self.problems) | {"examples": examples}}
