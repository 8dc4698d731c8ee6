"""The manifest of an index directory: its content, how it was made, and the sizes and hashes of its files.

`manifest.json` is the last file that a build writes, so a directory without one is unfinished. This module reads and
writes JSON and hashes files; it knows nothing of FAISS, scores or encoders. docs/index-format.md describes the whole
directory.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from retrieval.errors import IndexDamagedError, IndexMissingError, IndexVersionError
from retrieval.files import read_json, write_json

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "FileEntry",
    "Manifest",
    "ShardEntry",
    "ZoomEntry",
    "file_entry",
]

FORMAT = "tilebeam-index"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SMALL_FILE_BYTES = 1 << 20
"""Files up to this size are hashed whenever an index is opened, larger files only by `verify`."""


@dataclass(frozen=True)
class FileEntry:
    """One file of the index: its name relative to the directory (POSIX slashes), its size and its SHA-256."""

    name: str
    bytes: int
    sha256: str


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
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name != "files"}, files=files)


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
        entry = cls(int(data["zoom"]), shards, str(data["encoder"]), float(data["context"]), int(data["inferred"]))
        if (entry.rows, entry.vectors) != (data["rows"], data["vectors"]):
            raise ValueError(f"zoom {entry.zoom} counts {data['rows']} rows, its shards have {entry.rows}")
        return entry


@dataclass(frozen=True)
class Manifest:
    """The whole index. `source`, `coverage` and the encoder descriptions are JSON of the builder, kept unchanged.

    `source` holds at least `identity`, which enters the id; `photo_encoder` holds at least `fingerprint` and `spec`,
    which loads the encoder again; `coverage` is GeoJSON. `priors`: the installed priors by name, each in
    `priors/<name>/`; `prior`: the default prior. Neither enters the id.
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
            "files": files,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Manifest":
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        files = tuple(FileEntry(n, int(f["bytes"]), str(f["sha256"])) for n, f in data["files"].items())
        zooms = tuple(ZoomEntry.from_json(z) for z in data["zooms"])
        kept = {n: data[n] for n in ("photo_encoder", "map_encoders", "source", "attribution", "coverage")}
        kept |= {n: data[n] for n in ("priors", "prior") if n in data}
        manifest = cls(zooms=zooms, dim=int(data["dim"]), codec=str(data["codec"]), files=files, **kept)
        _check_runs(manifest)
        _check_names(manifest)
        if manifest.id != data["id"]:
            raise ValueError(f"its id is {data['id']}, its contents give {manifest.id}")
        return manifest

    def write(self, directory: Path) -> None:
        """Write `manifest.json` atomically. Call it last, because it declares the directory complete."""
        write_json(directory / MANIFEST_NAME, self.to_json())

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Read and check a manifest; raises IndexMissingError, IndexVersionError or IndexDamagedError."""
        path = directory / MANIFEST_NAME
        if not path.is_file():
            raise IndexMissingError(_why_missing(directory))
        try:
            data = read_json(path)
            _check_version(path, data)
            return cls.from_json(data)
        except OSError as exc:
            raise IndexDamagedError(f"{path} cannot be read ({exc}): check the disk and its permissions") from exc
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise IndexDamagedError(f"{path} is damaged ({exc}): build the index again") from exc

    def check_files(self, directory: Path) -> None:
        """Check the sizes of all files and the contents of small ones; IndexDamagedError names the first difference."""
        for entry in self.files:
            check_file(directory, entry, contents=entry.bytes <= SMALL_FILE_BYTES)


def file_entry(directory: Path, name: str) -> FileEntry:
    """The size and hash of one file of the directory."""
    with open(directory / name, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileEntry(name, os.fstat(stream.fileno()).st_size, digest)


def check_file(directory: Path, entry: FileEntry, *, contents: bool) -> None:
    """Compare one file with its entry; IndexDamagedError names the file and the difference."""
    path = directory / entry.name
    if not path.is_file():
        raise IndexDamagedError(f"{path} is missing, the manifest lists it: copy the index again or rebuild it")
    if (size := path.stat().st_size) != entry.bytes:
        raise IndexDamagedError(f"{path} has {size} bytes, the manifest says {entry.bytes}: copy or build it again")
    if contents and (actual := file_entry(directory, entry.name).sha256) != entry.sha256:
        raise IndexDamagedError(
            f"{path} differs from the manifest (sha256 {actual[:12]}, expected {entry.sha256[:12]}): "
            "copy the index or build it again"
        )


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
        path = PurePosixPath(entry.name)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.name:
            raise ValueError(f"it names a file outside the index: {entry.name!r}")


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
