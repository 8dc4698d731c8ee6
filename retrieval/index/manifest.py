"""The manifest of an index directory: its content, how it was made, and the sizes and hashes of its files.

`manifest.json` is the last file that a build writes, so a directory without one is unfinished. This module reads and
writes JSON and hashes files; it knows nothing of FAISS, scores or encoders. docs/index-format.md describes the whole
directory.
"""

import errno
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retrieval.errors import IndexDamagedError, IndexFormatError, IndexMissingError, IndexVersionError, damage_as
from retrieval.files import JSON_BYTES, is_inside, read_json, write_json
from retrieval.index.file_entries import FileEntry, check_file
from tile_cache.addressing import MAX_ZOOM

__all__ = [
    "BUILT_IN_ENCODER",
    "FORMAT",
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "PICTURES",
    "Manifest",
    "ShardEntry",
    "ZoomEntry",
    "is_prior_name",
]

FORMAT = "tilebeam-index"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SMALL_FILE_BYTES = 1 << 20
"""Files up to this size are hashed whenever an index is opened, larger files only by `verify`."""

CODECS = ("fp16", "fp32")
MAX_DIM = 16_384
"""Components of a vector; the widest encoders have 4,096."""
PICTURES = ("above", "ground")
"""Where the pictures that an index is for were taken from."""
BUILT_IN_ENCODER = "tilebeam-builtin"
"""The name of the built-in photo encoder, which knows pictures from above only."""
_MOST = 1 << 53  # counts of rows and bytes: every whole number up to here is exact in JSON readers too
_MAX_CONTEXT = 64.0  # tile widths
_PRIOR_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True)
class ShardEntry:
    """Rows [first_row, first_row + rows) of one zoom: all children of consecutive rows of the zoom above.

    `first_parent` and `parents` count rows of the zoom above; the first zoom has one pseudo-parent, row 0. `content` is
    the SHA-256 of codes, flags and stored vectors (`retrieval.index.shards.content_hash`).
    """

    file: str | None  # None: no row has a vector
    tiles: str
    holes: str | None  # local numbers of the rows without vector; None: every row has a vector, or no row
    first_row: int
    rows: int
    first_parent: int
    parents: int
    vectors: int
    content: str
    files: tuple[FileEntry, ...] = field(default=(), compare=False)  # not in the shard's JSON: the manifest lists files

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "files"}

    def to_record(self) -> dict[str, Any]:
        """As a resumable build stores it beside the shard, with its files' hashes, so that they are computed once."""
        return self.to_json() | {"files": [asdict(f) for f in self.files]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ShardEntry":
        """The inverse of `to_json` and of `to_record`."""
        files = tuple(FileEntry(**f) for f in data.get("files", ()))
        entry = cls(**{name: data[name] for name in cls.__dataclass_fields__ if name != "files"}, files=files)
        for name in ("first_row", "rows", "first_parent", "parents", "vectors"):
            _count(getattr(entry, name), name)
        for name in ("tiles", "content"):
            _text(getattr(entry, name), name)
        for name in ("file", "holes"):
            _text(getattr(entry, name) or "", name)
        if entry.holes is None and entry.vectors not in (0, entry.rows):
            raise ValueError(f"{entry.tiles} has {entry.vectors} vectors for {entry.rows} rows and lists no holes")
        return entry


@dataclass(frozen=True)
class ZoomEntry:
    """One zoom: its shards in row order, and the fingerprint and margin of its map encoder."""

    zoom: int
    shards: tuple[ShardEntry, ...]
    encoder: str
    context: float = 0.0  # tile widths
    inferred: int = 0  # rows without imagery, whose vector is the mean of their children's

    @property
    def rows(self) -> int:
        """The number of tiles of this zoom."""
        return sum(s.rows for s in self.shards)

    @property
    def vectors(self) -> int:
        """The number of tiles of this zoom that have a vector."""
        return sum(s.vectors for s in self.shards)

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it; `rows` and `vectors` are for human readers."""
        head = {"zoom": self.zoom, "rows": self.rows, "vectors": self.vectors, "inferred": self.inferred}
        tail = {"encoder": self.encoder, "context": self.context, "shards": [s.to_json() for s in self.shards]}
        return head | tail

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ZoomEntry":
        """The inverse of `to_json`."""
        shards = tuple(ShardEntry.from_json(s) for s in data["shards"])
        zoom, context = _count(data["zoom"], "zoom", MAX_ZOOM), float(data["context"])
        entry = cls(zoom, shards, _text(data["encoder"], "encoder"), context, _count(data["inferred"], "inferred"))
        if not (math.isfinite(context) and 0 <= context <= _MAX_CONTEXT):
            raise ValueError(f"zoom {zoom} has context {context}: 0 to {_MAX_CONTEXT:g} tile widths are expected")
        if entry.rows > 4**zoom:
            raise ValueError(f"zoom {zoom} has {entry.rows} rows, and the Earth {4**zoom} tiles")
        if (entry.rows, entry.vectors) != (data["rows"], data["vectors"]):
            raise ValueError(f"zoom {entry.zoom} counts {data['rows']} rows, its shards have {entry.rows}")
        return entry


@dataclass(frozen=True)
class Manifest:
    """The whole index. `source`, `coverage` and the encoder descriptions are JSON of the builder, kept unchanged.

    `source` holds at least `identity`, which enters the id; `photo_encoder` holds at least `fingerprint` and `spec`,
    which loads the encoder again; `coverage` is GeoJSON. `priors`: the installed priors by name, each in
    `priors/<name>/`; `prior`: the default prior. `pictures`: one of PICTURES, or None where nobody said. None of these
    three enters the id.
    """

    zooms: tuple[ZoomEntry, ...]
    dim: int
    codec: str
    photo_encoder: Mapping[str, Any]
    map_encoders: Mapping[str, Any]
    source: Mapping[str, Any]
    attribution: str
    coverage: Mapping[str, Any]
    files: tuple[FileEntry, ...]
    priors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prior: str | None = None
    pictures: str | None = None

    @property
    def viewpoint(self) -> str | None:
        """`pictures`; above where nobody said so and the photo encoder is the built-in one."""
        is_built_in = self.photo_encoder.get("name") == BUILT_IN_ENCODER
        return "above" if self.pictures is None and is_built_in else self.pictures

    @property
    def id(self) -> str:
        """SHA-256 of what was indexed: contents, encoders, sources and coverage, but no times, calibration or paths."""
        return _sha256_of_json(
            {
                "format": [FORMAT, FORMAT_VERSION],
                "dim": self.dim,
                "codec": self.codec,
                "photo_encoder": self.photo_encoder["fingerprint"],
                "source": self.source["identity"],
                "coverage": self.coverage,
                "zooms": [_indexed(z) for z in self.zooms],
            }
        )

    @property
    def coverage_hash(self) -> str:
        """SHA-256 of the coverage and the numbers of rows and vectors; a calibration is valid for one of these."""
        return _sha256_of_json([[z.zoom, z.rows, z.vectors] for z in self.zooms] + [self.coverage])

    def to_json(self) -> dict[str, Any]:
        """The content of `manifest.json`."""
        files = {f.name: {"bytes": f.bytes, "sha256": f.sha256} for f in sorted(self.files, key=lambda f: f.name)}
        priors = {"priors": {n: dict(p) for n, p in sorted(self.priors.items())}, "prior": self.prior}
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "id": self.id,
            "dim": self.dim,
            "codec": self.codec,
            "zooms": [z.to_json() for z in self.zooms],
            "photo_encoder": dict(self.photo_encoder),
            "map_encoders": dict(self.map_encoders),
            "source": dict(self.source),
            "attribution": self.attribution,
            "coverage": dict(self.coverage),
            **(priors if self.priors else {}),
            **({} if self.pictures is None else {"pictures": self.pictures}),
            "files": files,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Manifest":
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        files = tuple(
            FileEntry(n, _count(f["bytes"], "bytes"), _text(f["sha256"], "sha256")) for n, f in data["files"].items()
        )
        zooms = tuple(ZoomEntry.from_json(z) for z in data["zooms"])
        kept = {n: data[n] for n in ("photo_encoder", "map_encoders", "source", "attribution", "coverage")}
        kept |= {n: data[n] for n in ("priors", "prior", "pictures") if n in data}
        dim = _count(data["dim"], "dim", MAX_DIM)
        manifest = cls(zooms=zooms, dim=dim, codec=_text(data["codec"], "codec"), files=files, **kept)
        _check_descriptions(manifest)
        _check_runs(manifest)
        _check_names(manifest)
        if manifest.id != data["id"]:
            raise ValueError(f"its id is {data['id']}, its contents give {manifest.id}")
        return manifest

    def write(self, directory: Path) -> None:
        """Write `manifest.json` atomically. Call it last, because it declares the directory complete.

        Raises IndexFormatError if it would be larger than what `read` takes.
        """
        try:
            write_json(directory / MANIFEST_NAME, self.to_json(), limit=JSON_BYTES)
        except OSError as exc:
            if exc.errno != errno.EFBIG or exc.filename != str(directory / MANIFEST_NAME):
                raise
            raise IndexFormatError(
                f"{exc.filename} cannot be written ({exc.strerror}): simplify the polygons of the coverage, or index a "
                "smaller area"
            ) from exc

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Read and check a manifest; raises IndexMissingError, IndexVersionError or IndexDamagedError."""
        path = directory / MANIFEST_NAME
        if not path.exists():
            raise IndexMissingError(_why_missing(directory))
        with damage_as(IndexDamagedError, path, "build the index again"):
            try:
                data = read_json(path, inside=directory)
                _check_version(path, data)
                return cls.from_json(data)
            except OSError as exc:
                raise IndexDamagedError(
                    f"{path} cannot be read ({exc.strerror}): check the disk and its permissions"
                ) from exc
            except (ValueError, KeyError, TypeError, AttributeError) as exc:
                raise IndexDamagedError(f"{path} is damaged ({exc}): build the index again") from exc

    @property
    def shard_bytes(self) -> int:
        """The size of all shards' files together."""
        named = {name for z in self.zooms for s in z.shards for name in (s.file, s.tiles, s.holes)}
        return sum(f.bytes for f in self.files if f.name in named)

    def check_files(self, directory: Path) -> None:
        """Check the sizes of all files and the contents of small ones; IndexDamagedError names the first difference."""
        for entry in self.files:
            check_file(directory, entry, contents=entry.bytes <= SMALL_FILE_BYTES)


def is_prior_name(name: str) -> bool:
    """Whether a prior may have this name, which becomes part of file names."""
    return _PRIOR_NAME.fullmatch(name) is not None and name != "none"


def _count(value: Any, name: str, most: int = _MOST) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} is {value!r:.60}: a whole number from 0 to {most} is expected")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.60}: a text is expected")
    return value


def _indexed(entry: ZoomEntry) -> dict[str, Any]:
    shards = [[s.first_row, s.rows, s.first_parent, s.parents, s.content] for s in entry.shards]
    return {"zoom": entry.zoom, "encoder": entry.encoder, "context": entry.context, "shards": shards}


def _sha256_of_json(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_version(path: Path, data: Any) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise IndexDamagedError(
            f"{path} is not the manifest of a Tilebeam index: give a directory that `tilebeam index` made"
        )
    if data.get("version") != FORMAT_VERSION:
        raise IndexVersionError(
            f"{path} has format version {data.get('version')!r}, this program reads {FORMAT_VERSION}: "
            "build the index again, or use the Tilebeam version that made it"
        )


def _check_names(manifest: Manifest) -> None:
    """Shards use only listed files, and no file name leaves the directory. The manifest may come from anyone."""
    named = {name for z in manifest.zooms for s in z.shards for name in (s.file, s.tiles, s.holes) if name}
    if unlisted := named - {entry.name for entry in manifest.files}:
        raise ValueError(f"it does not list {min(unlisted)}, which a shard needs")
    for entry in manifest.files:
        if not is_inside(entry.name):
            raise ValueError(f"it names a file outside the index: {entry.name!r:.200}")
    if wrong := [name for name in manifest.priors if not is_prior_name(name)]:
        raise ValueError(f"it names a prior {wrong[0]!r:.60}: up to 40 of a-z, 0-9, - and _ are allowed")


def _check_descriptions(manifest: Manifest) -> None:
    """What the rest of the program takes for granted about the builder's JSON."""
    for name in ("photo_encoder", "map_encoders", "source", "coverage", "priors"):
        if not isinstance(getattr(manifest, name), dict):
            raise ValueError(f"{name} is {getattr(manifest, name)!r:.60}: an object is expected")
    _text(manifest.attribution, "attribution")
    _text(manifest.photo_encoder["fingerprint"], "the photo encoder's fingerprint")
    _text(manifest.source["identity"], "the source's identity")
    for name, entry in manifest.priors.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("fingerprint"), str):
            raise ValueError(f"the prior {name!r:.60} has no fingerprint")
    if manifest.codec not in CODECS:
        raise ValueError(f"codec is {manifest.codec!r:.60}: this program reads {' and '.join(CODECS)}")
    if manifest.pictures not in (None, *PICTURES):
        raise ValueError(f"pictures is {manifest.pictures!r:.60}: {' or '.join(PICTURES)} is expected")
    if not manifest.dim and any(zoom.vectors for zoom in manifest.zooms):
        raise ValueError("dim is 0, and it lists vectors")


def _check_runs(manifest: Manifest) -> None:
    """Zooms ascend, and shards cover the rows of their zoom and of the zoom above without gaps."""
    if not manifest.zooms:
        raise ValueError("it lists no zooms")
    if manifest.prior is not None and manifest.prior not in manifest.priors:
        raise ValueError(f"its default prior {manifest.prior!r} is not in its list of priors")
    above, last = 1, -1
    for entry in manifest.zooms:
        if entry.zoom <= last:
            raise ValueError(f"zoom {entry.zoom} follows zoom {last}")
        row = parent = 0
        for shard in entry.shards:
            if (shard.first_row, shard.first_parent) != (row, parent):
                raise ValueError(f"{shard.tiles} starts at row {shard.first_row}, parent {shard.first_parent}")
            if shard.file is None and shard.vectors:
                raise ValueError(f"{shard.tiles} has {shard.vectors} vectors and no file for them")
            row, parent = row + shard.rows, parent + shard.parents
        if parent != above:
            raise ValueError(f"zoom {entry.zoom} has lists for {parent} parents, the zoom above has {above} rows")
        above, last = row, entry.zoom


def _why_missing(directory: Path) -> str:
    way_out = "build one with `tilebeam index --source S --out DIR ...`, or try `tilebeam demo`"
    if not directory.exists():
        return f"no index at {directory}: {way_out}"
    if not directory.is_dir():
        return f"{directory} is a file, an index is a directory: {way_out}"
    if any(directory.glob("z*.faiss")) or any(directory.glob("z*.npy")):
        return f"the index at {directory} is unfinished (no {MANIFEST_NAME}): run the same `tilebeam index` again"
    return f"no index at {directory} (no {MANIFEST_NAME}): {way_out}"
