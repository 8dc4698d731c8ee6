"""The last step of a build: list problems, write the manifest, add a calibration that fits, rename to the index.

problems.jsonl has one JSON object a line: z, x, y, layer, reason. A tile without imagery has the reason "no imagery".
"""

import json
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from indexer.build.decode import NO_IMAGERY, TileProblem
from indexer.build.inputs import Inputs, describe_photo
from indexer.build.request import BuildRequest, ProblemCounts
from indexer.build.units import ZoomRows
from indexer.build.workdir import IDENTITY_NAME, Workdir
from indexer.errors import NothingFoundError
from retrieval.encoders.base import EncodesPhotos, NoEncoder
from retrieval.errors import CalibrationError
from retrieval.files import read_json, write_atomically, write_json
from retrieval.index.calibration import CALIBRATION_NAME, Calibration
from retrieval.index.manifest import BUILT_IN_ENCODER, Manifest, ZoomEntry
from retrieval.index.writer import ENCODERS, write_manifest
from tile_cache.addressing import Tile, code_of_tile, tile_of_code
from tile_cache.repeats import Repeated, Repeats
from tile_cache.source import TileSource
from tile_cache.xyz import XyzSource

__all__ = ["PROBLEMS_NAME", "Published", "publish"]

PROBLEMS_NAME = "problems.jsonl"


class Published(NamedTuple):
    """The manifest of a published index, its problems, and whether a calibration went in.

    `repeated`: pictures that stand at many tiles, and those that the request names as absent.
    """

    manifest: Manifest
    problems: ProblemCounts
    calibrated: bool
    repeated: tuple[Repeated, ...]


def publish(
    work: Workdir,
    inputs: Inputs,
    levels: Sequence[ZoomRows],
    zooms: Sequence[ZoomEntry],
    layers: Sequence[TileSource],
) -> Published:
    """Complete work/index and rename it to the index's place. `zooms`: the entries of the written shards.

    `layers`: the sources that were embedded. Raises NothingFoundError if not one tile has a vector.
    """
    # A zoom above the source's first has no imagery anywhere, which is no problem of any tile.
    with_imagery = [rows for rows in levels if inputs.sources and rows.zoom >= inputs.sources[0].info.min_zoom]
    repeats = Repeats()
    problems = _write_problems(work.index, with_imagery, repeats)
    repeated: tuple[Repeated, ...] = ()
    if layers:
        named, tiles = inputs.request.fetch.absent_images, sum(len(rows.codes) for rows in with_imagery)
        repeated = repeats.often(layers[0].read, named=named, tiles=tiles)
    if inputs.encoders is not None and not any(z.vectors for z in zooms):
        raise NothingFoundError(_nothing(inputs.sources[0].info.name, problems, repeated))
    write_json(work.index / IDENTITY_NAME, read_json(work.identity))
    manifest = _write_manifest(work.index, inputs, zooms)
    calibrated = _add_calibration(inputs.request, manifest, work.index)
    work.publish(overwrite=inputs.request.overwrite)
    return Published(manifest, problems, calibrated, repeated)


def _nothing(name: str, problems: ProblemCounts, repeated: Sequence[Repeated]) -> str:
    examples = [f"{p.z}/{p.x}/{p.y}: {p.reason}" for p in problems.examples[:1]]
    named = [f"{r.count:,} show a picture that is named as absent" for r in repeated]
    found = "; ".join([f"{problems.missing:,} without imagery, {problems.broken:,} broken", *named, *examples])
    return (
        f"no tile of {name} in this area has imagery ({found}), so no index is made: check the source and the area; an"
        " index without vectors is made with --rows-only"
    )


def _write_manifest(directory: Path, inputs: Inputs, zooms: Sequence[ZoomEntry]) -> Manifest:
    """Write the manifest, which declares the directory whole; a photo encoder that came from files is saved first."""
    encoders = inputs.encoders
    photo = NoEncoder() if encoders is None else encoders.photo
    described = _saved(directory, photo)
    return write_manifest(
        directory,
        zooms,
        dim=photo.dim,
        codec=inputs.codec,
        photo_encoder=described,
        map_encoders={} if encoders is None else {"input_size": encoders.maps.input_size},
        source=_described(inputs.sources),
        attribution="; ".join(dict.fromkeys(s.info.attribution for s in inputs.sources if s.info.attribution)),
        coverage=inputs.coverage.geojson,
        other_files=(IDENTITY_NAME, PROBLEMS_NAME),
        pictures=inputs.request.pictures or ("above" if photo.name == BUILT_IN_ENCODER else None),
    )


def _saved(directory: Path, photo: EncodesPhotos) -> dict[str, Any]:
    """The photo encoder's description; an encoder from local files is copied into the index."""
    described = describe_photo(photo)
    if getattr(photo, "local", False):
        photo.save(directory / ENCODERS)  # type: ignore[attr-defined]  # only encoders from files are local
        described |= {"spec": ENCODERS}  # a path of this machine means nothing on another
    return described


def _described(sources: Sequence[TileSource | XyzSource]) -> dict[str, Any]:
    if not sources:
        return {"identity": "rows only", "name": "rows only"}
    described = {"identity": " + ".join(s.info.identity for s in sources), "name": sources[0].info.name}
    return described | ({"overlay": sources[1].info.name} if len(sources) > 1 else {})


def _add_calibration(request: BuildRequest, manifest: Manifest, directory: Path) -> bool:
    """Copy the request's calibration into the index if it was fitted for it; returns whether it was.

    Raises CalibrationError if the file is damaged.
    """
    path = request.calibration
    if path is None and request.photo_encoder == "builtin" and request.map_encoders is None:
        path = Path(str(resources.files("indexer.builtin").joinpath(CALIBRATION_NAME)))
    if path is None or not path.exists() or not manifest.dim:
        return False
    if path.name != CALIBRATION_NAME:
        raise CalibrationError(f"{path} must be named {CALIBRATION_NAME}")
    calibration = Calibration.read(path.parent)
    fingerprint = str(manifest.photo_encoder["fingerprint"])
    zooms = [z.zoom for z in manifest.zooms]
    if calibration.k is None or not calibration.fits(calibration.k, zooms, manifest.coverage_hash, fingerprint):
        return False
    fitted_maps = calibration.extra.get("map_encoders")
    if fitted_maps not in (None, {str(z.zoom): z.encoder for z in manifest.zooms}):
        return False
    calibration.write(directory)
    return True


def _write_problems(directory: Path, levels: Sequence[ZoomRows], repeats: Repeats) -> ProblemCounts:
    """Write problems.jsonl if there are problems, and count repeated pictures on the way."""
    counts = ProblemCounts()

    def write(path: Path) -> None:
        with open(path, "w", encoding="utf-8") as stream:
            for rows in levels:
                for problem in _problems(rows, repeats):
                    counts.add(problem)
                    stream.write(json.dumps(problem._asdict()) + "\n")

    path = directory / PROBLEMS_NAME
    write_atomically(path, write)
    if not counts.missing + counts.broken:
        path.unlink()
    return counts


def _problems(rows: ZoomRows, repeats: Repeats) -> Iterator[TileProblem]:
    """Each problem of a zoom once, in row order; those of tiles outside the coverage last.

    A broken tile is in the problems of every unit whose margins it touches; only the unit of its own row lists it.
    """
    outside: set[TileProblem] = set()
    for number in range(rows.unit_count):
        unit = rows.original(number)
        for sha256, count, row in unit.repeats:
            repeats.add(sha256, tile_of_code(int(rows.codes[row]), rows.zoom), count)
        stop = unit.first_row + len(unit.has_imagery)
        places = [(_row_of(rows, p), p) for p in unit.problems]
        own = {(row, p) for row, p in places if unit.first_row <= row < stop}
        outside.update(p for row, p in places if row < 0)
        broken = {row for row, p in own if p.layer == "source"}
        missing = [int(r) + unit.first_row for r in np.flatnonzero(~unit.has_imagery)]
        own |= {(row, _no_imagery(rows, row)) for row in missing if row not in broken}
        yield from (p for _, p in sorted(own))
    yield from sorted(outside)


def _row_of(rows: ZoomRows, problem: TileProblem) -> int:
    """The row of a tile, or -1 if it is only a row's neighbour."""
    code = np.uint64(code_of_tile(Tile(problem.x, problem.y, problem.z)))
    row = int(np.searchsorted(rows.codes, code))
    return row if row < len(rows.codes) and rows.codes[row] == code else -1


def _no_imagery(rows: ZoomRows, row: int) -> TileProblem:
    tile = tile_of_code(int(rows.codes[row]), rows.zoom)
    return TileProblem(tile.z, tile.x, tile.y, "source", NO_IMAGERY)
