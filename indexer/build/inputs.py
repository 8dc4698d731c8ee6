"""What a build reads: sources, coverage and encoders, opened and checked, and the build identity that they make.

It does not know how tiles become vectors.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from indexer.build.area import coverage_of, reach_of
from indexer.build.coverage import Coverage
from indexer.build.request import BuildRequest, Encoders, TileRequest
from indexer.errors import BuildError, CoverageError
from indexer.progress import OnProgress, Progress
from retrieval.encoders.base import EncodesPhotos
from retrieval.files import JSON_BYTES, read_json
from tile_cache.fetch.settings import ABSENT_STATUSES
from tile_cache.open import open_source
from tile_cache.source import RasterSource, TileSource, notes_of
from tile_cache.xyz import XyzSource

__all__ = ["EncoderFacts", "Inputs", "describe_photo", "load_encoders", "open_inputs"]

_MAX_MARGIN = 64.0  # tile widths
_OTHER_BYTES = 1 << 20
"""Left for what else a manifest holds: 1,500 shards."""
ASSUMED_DIM = 512
"""Components of a ViT-B-32 embedding."""


@dataclass(frozen=True)
class Inputs:
    """The opened inputs of one build.

    `sources`: the source and, if there is one, its overlay; `encoders`: None, and no sources, for rows only; `dtype`:
    NumPy type of stored vectors.
    """

    request: BuildRequest
    coverage: Coverage
    sources: tuple[TileSource | XyzSource, ...]
    encoders: Encoders | None
    dtype: str = "<f2"

    @property
    def codec(self) -> str:
        """The codec in the manifest; rows only have no vectors, whatever the request says."""
        return "fp16" if self.encoders is None else self.request.codec

    @property
    def margins(self) -> dict[int, float]:
        """The margin around a tile that each zoom's encoder sees, in tile widths."""
        return {z: self.encoders.maps.context(z) if self.encoders else 0.0 for z in self.coverage.zooms}

    @property
    def reach(self) -> dict[int, int]:
        """How many tiles away each zoom's margin reaches."""
        return {z: reach_of(margin) for z, margin in self.margins.items()}

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the bytes of the index. Its keys are part of the format of plan.json."""
        request, coverage = self.request, self.coverage
        if self.encoders is None:
            rows = {"coverage": coverage.identity, "rows a shard": request.shard_rows}
            return {"plan": 1, "rows only": True, **rows}
        photo, maps = self.encoders
        return {
            "plan": 1,
            "zooms": list(coverage.zooms),
            "coverage": coverage.identity,
            "source": self.sources[0].info.identity,
            "overlay": self.sources[1].info.identity if len(self.sources) > 1 else None,
            "photo encoder": describe_photo(photo)["fingerprint"],
            "map encoders": {str(z): maps.fingerprint(z) for z in coverage.zooms},
            "margins": {str(z): margin for z, margin in self.margins.items()},
            "input": [maps.input_size, maps.batch_size, maps.dim],
            "codec": request.codec,
            "rows a unit": request.unit_rows,
            "rows a shard": request.shard_rows,
            **self._special,
        }

    @property
    def _special(self) -> dict[str, Any]:
        """What decides the bytes of some indexes only; others keep the identity that they had before it existed."""
        special: dict[str, Any] = {}
        fetching, source = self.request.fetch, self.sources[0]
        if any(self.margins.values()) and not isinstance(source, RasterSource):
            special["margins show through"] = 1  # transparent neighbours: before, they were black
        if fetching.absent_images:
            special["absent images"] = sorted(fetching.absent_images)
        if fetching.absent_statuses != ABSENT_STATUSES and any(isinstance(s, XyzSource) for s in self.sources):
            special["absent statuses"] = sorted(fetching.absent_statuses)
        return special


def open_inputs(stack: ExitStack, request: BuildRequest, encoders: Encoders | None, on_progress: OnProgress) -> Inputs:
    """Open what a request names; `stack` closes it. Notes about the coverage go to `on_progress`.

    `encoders`: used instead of those that the request names. Raises CoverageError, BuildError, SourceError and
    EncoderError kinds.
    """
    if request.source is None and not request.rows_only:
        raise BuildError("a build with vectors needs a source: give --source, or --rows-only")
    sources = tuple(_opened(stack, spec) for spec in (request.source, request.overlay) if spec is not None)
    coverage = coverage_of(request.area, request.zooms, sources[0] if request.source is not None else None)
    _check_coverage(coverage)
    for note in (*coverage.notes, *(note for source in sources for note in notes_of(source))):
        on_progress(Progress("note", note))
    if request.rows_only:
        return Inputs(request, coverage, (), None)
    encoders = encoders or load_encoders(request)
    if encoders.photo.dim != encoders.maps.dim:
        dims = f"the photo encoder has {encoders.photo.dim} dimensions, the map encoders {encoders.maps.dim}"
        raise BuildError(f"{dims}: they must agree")
    return Inputs(request, coverage, sources, encoders, _dtype(request.codec))


def _check_coverage(coverage: Coverage) -> None:
    """Raise CoverageError for polygons that would make a manifest too large to be read, before anything is fetched."""
    size = len(json.dumps(coverage.geojson, indent=1, ensure_ascii=False).encode())
    if size > JSON_BYTES - _OTHER_BYTES:
        raise CoverageError(
            f"the polygons take {size:,} bytes in the index's manifest, at most {JSON_BYTES - _OTHER_BYTES:,} are "
            "possible: simplify them"
        )


@dataclass(frozen=True)
class EncoderFacts:
    """Facts about encoders that are known without loading them: `dim`, and the margin of each zoom in tile widths."""

    dim: int
    margins: Mapping[int, float]

    @classmethod
    def read(cls, request: TileRequest, dim: int | None = None) -> "EncoderFacts":
        """From the JSON beside saved encoders; `dim` overrides, and 512 is assumed where nothing is known.

        Raises BuildError if the request's map encoders have no maps.json.
        """
        builtin = Path(str(resources.files("indexer.builtin").joinpath("maps.json"))).parent
        photos = builtin if request.photo_encoder == "builtin" else Path(request.photo_encoder)
        maps = request.map_encoders or (builtin if request.photo_encoder == "builtin" else None)
        zooms = _read(maps / "maps.json").get("zooms", {}) if maps else {}
        if request.map_encoders is not None and not zooms:
            raise BuildError(f"{request.map_encoders} has no maps.json: give a folder that `tilebeam train` wrote")
        try:
            known = dim or _read(photos / "photo.json").get("architecture", {}).get("embed_dim")
            margins = {int(z): float(entry["context"]) for z, entry in zooms.items()}
            if not all(0 <= margin <= _MAX_MARGIN for margin in margins.values()):
                raise ValueError(f"margins of {margins}")
            return cls(int(known or ASSUMED_DIM), margins)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as exc:
            raise BuildError(
                f"photo.json in {photos} or maps.json in {maps} is damaged ({exc!r:.200}): copy the encoders again"
            ) from exc

    def reach(self, zooms: Iterable[int]) -> dict[int, int]:
        """How many tiles away each zoom's margin reaches."""
        return {z: reach_of(self.margins.get(z, 0.0)) for z in zooms}


def load_encoders(request: TileRequest) -> Encoders:
    """The encoders that a request names. Raises EncoderError kinds."""
    from retrieval.encoders.open_clip import MapEncoders, PhotoEncoder  # loads torch, which rows only do not need

    photo = PhotoEncoder.load(request.photo_encoder, device=request.device)
    return Encoders(photo, MapEncoders.load(request.map_encoders, photo))


def describe_photo(photo: EncodesPhotos) -> dict[str, Any]:
    """A photo encoder as the manifest names it: its own description, or name, fingerprint and dimension."""
    describe = getattr(photo, "describe", None)
    if describe is not None:
        return dict(describe())
    return {"name": photo.name, "spec": photo.name, "fingerprint": photo.fingerprint, "dim": photo.dim}


def _opened(stack: ExitStack, spec: str) -> TileSource | XyzSource:
    source = open_source(spec)
    if not isinstance(source, XyzSource):
        stack.callback(source.close)
    return source


def _dtype(codec: str) -> str:
    from retrieval.index.shards import CODECS  # loads FAISS, which `plan` and `fetch` do not need

    if codec not in CODECS:
        raise BuildError(f"unknown codec {codec!r}: use {' or '.join(CODECS)}")
    return CODECS[codec].str


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty if the file cannot be read."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
